"""A chat template is a program of a member's: one that is hostile is refused in words, and stops nobody else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.urls import reverse

from finetune_hub.accounts.actions import create_token
from finetune_hub.catalog import chat_templates
from finetune_hub.catalog.models import BaseModel
from finetune_hub.data import template_process
from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.template_process import StoppedTemplate, hash_of_template, with_template, with_template_long
from tests.factories import first_member, make_base_model, make_dataset_version, make_team, make_user
from tests.security.template_uses import forget_the_time, process_of, raise_signal
from tests.tiny_models import make_tokenizer

HOSTILE = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops with output": "{% for a in range(99999) %}{% for b in range(99999) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}",
    "a constant": "{{ 9 ** (9 ** 9) }}",
    "a number that is too long": "{{ 2 ** (10 ** 7) }}",
    "too much memory": "{% set x = 'x' * 10 ** 10 %}",
    "more and more memory": "{% set n = namespace(x='x') %}{% for a in range(99) %}{% set n.x = n.x * 2 %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "parentheses": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "lists": "{{ " + "[" * 40_000 + " }}",
    "a surrogate": r"{{ '\ud800' }}",
    "an attribute": "{{ ''.__class__.__mro__ }}",
    "no message": "{{ messages[7]['content'].strip() }}",
}


@pytest.fixture(autouse=True)
def short_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "CPU_SECONDS", 0.5)


@pytest.mark.django_db
@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_template_is_not_set(source: str, tmp_path: Path) -> None:
    make_tokenizer(tmp_path, chat_template=None)
    model = make_base_model(make_team(make_user()), "plain", folder=tmp_path, facts={"chat_template_sha256": None})
    _, token = create_token(first_member(model.team), model.team, name="test")
    api = Client(headers={"Authorization": f"Bearer {token}"})
    answer = api.post(f"/api/base-models/{model.pk}/chat-template", {"source": source}, content_type="application/json")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, "chat_template_unsuited", "source")
    assert len(error["message"]) < 500
    model.refresh_from_db()
    assert model.lacks_chat_template


@pytest.mark.django_db
def test_a_hostile_template_that_was_imported_stops_neither_preview_nor_plan(tmp_path: Path) -> None:
    make_tokenizer(tmp_path, chat_template=HOSTILE["loops"])
    model = make_base_model(make_team(make_user()), "hostile", folder=tmp_path)
    version = make_dataset_version(model.team)
    client = Client()
    client.force_login(first_member(model.team))
    look = {"base_model": model.pk, "max_seq_len": 60, "row": 1}
    page = client.get(reverse("dataset-preview", args=[version.dataset_id, 1]), look).content.decode()
    assert "took more than 0 seconds and was stopped" in page
    _, token = create_token(first_member(model.team), model.team, name="test")
    api = Client(headers={"Authorization": f"Bearer {token}"})
    address = f"/api/datasets/{version.dataset_id}/versions/1/tokens"
    error = api.get(address, {"base_model": "hostile", "max_seq_len": 60}).json()["error"]
    assert "Simplify the chat template" in error["remedy"]
    plan = api.post(
        "/api/plans",
        json.dumps({"base_model": "hostile", "datasets": [{"name": version.dataset.name}]}),
        content_type="application/json",
    )
    assert plan.status_code < 500


def test_what_was_stopped_is_not_tried_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tokenizer(tmp_path, chat_template=HOSTILE["a constant"])
    with pytest.raises(StoppedTemplate):
        with_template(tmp_path, "one", hash_of_template)
    assert (tmp_path, "one") in template_process._stopped
    monkeypatch.setattr(template_process, "_pool", lambda: pytest.fail("It was tried again."))
    with pytest.raises(StoppedTemplate):
        with_template(tmp_path, "one", hash_of_template)


def test_what_was_stopped_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "_stopped", {(Path("a"), ""): (0.0, "long ago")})
    template_process._remember(Path("b"), "", "now")
    assert list(template_process._stopped) == [(Path("b"), "")]


def test_it_runs_elsewhere_and_the_next_call_is_well(tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    processes = {with_template(tmp_path, "good", process_of) for _ in range(5)}
    assert os.getpid() not in processes
    assert len(processes) <= 2  # They are kept.
    for crash in (raise_signal, forget_the_time):
        with pytest.raises(StoppedTemplate):
            with_template_long(tmp_path, crash.__name__, crash)
    assert with_template(tmp_path, "good", hash_of_template) == ChatTemplate.from_folder(tmp_path).sha256


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_for_a_row_while_a_template_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tokenizer(tmp_path, chat_template=None)
    model = make_base_model(make_team(make_user()), "plain", folder=tmp_path, facts={"chat_template_sha256": None})
    tried: Callable[..., Any] = chat_templates.with_template
    seen = []

    def look(*args: Any) -> Any:
        seen.append(connection.in_atomic_block)
        return tried(*args)

    monkeypatch.setattr(chat_templates, "with_template", look)
    chat_templates.set_chat_template(model, first_member(model.team), name="chatml")
    assert seen == [False]
    with transaction.atomic():
        assert BaseModel.objects.select_for_update(nowait=True).get(pk=model.pk).chat_template == "chatml"
