"""A base model that came without a chat template is given one: a new revision, and chats can be trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_hub.artifacts.manifest import verify_files
from finetune_hub.catalog.chat_templates import fitting_templates, set_chat_template
from finetune_hub.catalog.local_files import tokenizer_folder
from finetune_hub.catalog.models import BaseModel
from finetune_hub.catalog.preview import preview_row
from finetune_hub.jobs.kinds.training import submit_training
from finetune_hub.spec.refusal import Refusal
from tests.factories import first_member, make_base_model, make_dataset_version, make_spec, make_team, make_user
from tests.tiny_models import make_tokenizer

pytestmark = pytest.mark.django_db


@pytest.fixture
def model(tmp_path: Path) -> BaseModel:
    make_tokenizer(tmp_path, chat_template=None)
    return make_base_model(make_team(make_user()), "plain", folder=tmp_path, facts={"chat_template_sha256": None})


def test_a_chat_dataset_is_refused_until_the_model_has_a_template(model: BaseModel) -> None:
    team = model.team
    make_dataset_version(team, "tickets")
    spec = make_spec(base_model="plain")
    with pytest.raises(Refusal) as refused:
        submit_training(team, first_member(team), spec)
    assert refused.value.code == "no_chat_template"
    assert "base-models set-template plain chatml" in refused.value.remedy
    set_chat_template(model, first_member(model.team), name="chatml")
    assert submit_training(team, first_member(team), spec).over == model


def test_raw_text_needs_no_template(model: BaseModel) -> None:
    make_dataset_version(model.team, "texts", rows=[{"text": "Once upon a time."}])
    submit_training(model.team, first_member(model.team), make_spec(base_model="plain", dataset={"name": "texts"}))


def test_the_template_is_a_file_of_a_new_revision(model: BaseModel) -> None:
    before = model.revision
    changed = set_chat_template(model, first_member(model.team), name="chatml")
    changed.refresh_from_db()
    assert changed.revision != before
    assert changed.chat_template == "chatml"
    assert not changed.lacks_chat_template
    assert "chat_template.jinja" in [entry.path for entry in changed.manifest()]
    verify_files(tokenizer_folder(changed), changed.manifest())
    tokens = preview_row(make_dataset_version(changed.team), changed, 1, 1024).tokens
    assert "".join(token.text for token in tokens if token.supervised) == "1<|im_end|>"


def test_it_is_given_once(model: BaseModel) -> None:
    set_chat_template(model, first_member(model.team), name="chatml")
    with pytest.raises(Refusal) as refused:
        set_chat_template(model, first_member(model.team), name="alpaca")
    assert (refused.value.code, refused.value.kind) == ("chat_template_exists", "conflict")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"name": "nonsense"}, "unknown_chat_template"),
        ({"source": "{% for %}"}, "chat_template_unsuited"),
        ({"source": "{{ messages[0]['content'] }}"}, "chat_template_unsuited"),
        ({}, "invalid_request"),
        ({"name": "chatml", "source": "x"}, "invalid_request"),
    ],
)
def test_what_is_no_template_changes_nothing(model: BaseModel, given: dict[str, str], code: str) -> None:
    with pytest.raises(Refusal) as refused:
        set_chat_template(model, first_member(model.team), **given)
    assert refused.value.code == code
    model.refresh_from_db()
    assert model.lacks_chat_template


def test_those_that_fit_the_tokenizer_come_first(model: BaseModel) -> None:
    fits = fitting_templates(model)
    assert next(iter(fits)) == "chatml"
    assert fits["chatml"]
    assert not fits["llama-3"]
