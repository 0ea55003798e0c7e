"""Input that is nested without end is refused in words: no request ends as a fault of the hub."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Team
from tests.factories import first_member, make_base_model, make_dataset_version, make_team, make_worker

pytestmark = pytest.mark.django_db

ASKED: dict[str, Any] = {"base_model": "m", "datasets": [{"name": "d"}]}


@pytest.fixture
def api() -> Client:
    team = make_team()
    _, token = create_token(first_member(team), team, name="test")
    return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize("levels", [65, 500, 990, 100_000])
@pytest.mark.parametrize(("before", "after"), [("[", "]"), ('{"a":', "}")])
def test_a_deep_body(api: Client, levels: int, before: str, after: str) -> None:
    body = f"{before * levels}1{after * levels}"
    for address in ("jobs", "plans", "evaluations", "job-kinds/evaluate", "datasets/import", "tokens"):
        answer = api.post(f"/api/{address}", data=body, content_type="application/json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body"), address


@pytest.mark.parametrize(
    "pattern", ["(" * 5000, "(" * 500 + ")" * 500 + "(", "a{99999999999999999999}", "(?P<a>x)(?P=b)"]
)
def test_a_pattern_that_cannot_be_compiled(api: Client, pattern: str) -> None:
    for method in ({"target_modules": pattern}, {"rank_pattern": {pattern: 4}}, {"exclude_modules": pattern}):
        body = ASKED | {"method": {"type": "lora", **method}}
        answer = api.post("/api/plans", data=body, content_type="application/json")
        assert answer.status_code == 422


def test_a_pattern_that_takes_exponential_time(api: Client) -> None:
    team = Team.objects.get()
    make_base_model(team, "tiny")
    make_dataset_version(team, "d")
    make_worker(devices=1)
    for field in ("target_modules", "exclude_modules"):
        body = ASKED | {
            "base_model": "tiny",
            "method": {"type": "lora", field: r"(((\w|\.|\w\w|\w\w\w|.\w|\w.)+)+)+\d"},
        }
        answer = api.post("/api/plans", data=body, content_type="application/json")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (422, "invalid_spec")
        assert "takes too long" in error["message"]


def test_a_deep_mapping_in_a_form() -> None:
    browser = Client(raise_request_exception=False)
    browser.force_login(first_member(make_team()))
    typed = {"form_token": "t", "dataset": "d@1", "base_model": "m", "method.rank_pattern": "{" * 5000}
    assert browser.post("/jobs/new/", typed).status_code == 422
