"""Requests that nobody thought of: Schemathesis draws them from the schema, and every answer must be a documented one.

Drawn ids name nothing, so each request is sent a second time with the ids of rows that are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from finetune_hub.accounts.actions import create_token
from tests.api.conftest import World
from tests.api.test_who_may_what import rolled_back

# The client here leaves a response, and with it an upload's file, to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*upload:pytest.PytestUnraisableExceptionWarning")

schema = schemathesis.openapi.from_wsgi("/api/schema", get_wsgi_application())
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@schema.parametrize()
@settings(max_examples=5, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented(case: Case, world: World, secret: str) -> None:
    send(case, secret)
    real = real_ids(case.path, world)
    if real:
        case.path_parameters.update(real)
        send(case, secret)


@pytest.fixture
def secret(world: World) -> str:
    """Of the team's admin, so that no request ends at a role that is too low."""
    return create_token(world.alice, world.team, name="every request")[1]


@pytest.fixture(autouse=True)
def one_connection() -> Iterator[None]:
    """The end of a request closes the connection, which here is the test's own: keep it, as Django's client does."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def send(case: Case, secret: str) -> None:
    with rolled_back():
        case.call_and_validate(headers={"Authorization": f"Bearer {secret}"}, checks=CHECKS)


def real_ids(path: str, world: World) -> dict[str, Any]:
    """Path parameters of rows that the caller's team has."""
    noun = path.split("/")[2]
    ids: dict[str, dict[str, Any]] = {
        "jobs": {"id": world.job.pk},
        "datasets": {"id": world.job.dataset_versions.get().dataset_id, "number": 1, "name": "rows.jsonl"},
        "base-models": {"id": world.job.base_model_id},
        "adapters": {"id": world.version.adapter_id, "number": 1, "path": "adapter_config.json"},
        "workers": {"name": "gpu-1"},
        "members": {"username": "bob"},
        "tokens": {"id": world.team.api_tokens.filter(user__username="alice").earliest("created_at").pk},
    }
    return {name: value for name, value in ids.get(noun, {}).items() if f"{{{name}}}" in path}
