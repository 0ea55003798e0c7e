"""What the client makes of answers: by models that follow the API's schema, with a hub that is newer, or older."""

from __future__ import annotations

import ast
import json
from importlib.metadata import version

import httpx
import pytest

from finetune_hub.cli.answers import Job
from finetune_hub.cli.client import Hub
from finetune_hub.cli.connection import HubError
from finetune_hub.scheduling.plan_answer import PlanAnswer
from tests.cli.conftest import run_command
from tests.cli.make_answers import TARGET, source

JOB = dict.fromkeys(Job.model_fields) | {
    "id": "ftjob-1",
    "address": "",
    "kind": "train",
    "state": "resting",  # A state of a later release.
    "desired_state": "run",
    "created_by": "alice",
    "created_at": "2026-11-30T12:00:00Z",
    "waiting_reason": "",
    "waiting_code": "",
    "priority": 0,
    "step": 0,
    "progress_unit": "steps",
}


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What every request is answered with."""
    body: dict[str, object] = {"data": [JOB], "next": None}

    def request(*_: object, **__: object) -> httpx.Response:
        return httpx.Response(200, content=json.dumps(body), request=httpx.Request("GET", "http://hub/api/jobs"))

    monkeypatch.setattr(httpx.Client, "request", request)
    monkeypatch.setenv("FINETUNE_HUB_URL", "http://hub")
    monkeypatch.setenv("FINETUNE_HUB_TOKEN", "fth_none")
    return body


def test_the_models_are_those_of_the_schema() -> None:
    """After a wanted change of the API: `make answers`."""
    assert classes(source()) == classes(TARGET.read_text())


def classes(module: str) -> list[str]:
    return [ast.unparse(node) for node in ast.parse(module).body if isinstance(node, ast.ClassDef)]


def test_a_newer_hub_may_say_more(answer: dict[str, object]) -> None:
    answer["data"] = [JOB | {"mood": {"is": "good"}}]
    assert run_command("jobs", "list", "--json").json == answer["data"]
    assert "resting" in run_command("jobs", "list").out


def test_an_older_hub_is_told_apart_by_what_it_lacks(answer: dict[str, object]) -> None:
    answer["data"] = [{name: value for name, value in JOB.items() if name != "progress_unit"}]
    refused = run_command("jobs", "list", "--json")
    assert (refused.code, refused.error["code"]) == (3, "other_version")
    assert "lacks `data.0.progress_unit`" in refused.error["message"]
    assert f"Upgrade the hub to {version('finetune_hub')} or newer" in refused.error["remedy"]


def test_a_field_that_became_another_asks_for_the_hubs_own_client(answer: dict[str, object]) -> None:
    answer["data"] = [JOB | {"step": {"done": 3}}]
    assert "Install the hub's version" in run_command("jobs", "list", "--json").error["remedy"]


@pytest.mark.parametrize("body", ["<html>", "[]", ""])
def test_what_is_no_answer_is_no_hub(monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    response = httpx.Response(200, text=body, request=httpx.Request("GET", "http://hub/api/me"))
    monkeypatch.setattr(httpx.Client, "request", lambda *_, **__: response)
    with Hub("http://hub", "fth_none") as hub, pytest.raises(HubError) as caught:
        hub.me()
    assert caught.value.code == "unexpected_answer"


def test_what_both_sides_compute_may_say_more_too() -> None:
    plan = {"fits": True, "sentence": "It fits.", "assumptions": [], "devices": [], "mood": "good"}
    assert PlanAnswer.model_validate(plan).model_dump() == plan
