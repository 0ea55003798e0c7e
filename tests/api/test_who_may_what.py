"""Every route × every kind of caller. A route that is missing here fails the first test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.urls import reverse

from finetune_hub.api.urls import urlpatterns
from tests.api.conftest import World


@dataclass(frozen=True)
class Call:
    """A request, and the status that each caller gets. Anonymous and expired callers get 401 but from public routes."""

    method: str
    route: str
    ids: Callable[[World], dict[str, Any]] = lambda world: {}
    body: Callable[[World], dict[str, Any]] = lambda world: {}
    ok: int = 200
    outsider: int = 404
    is_public: bool = False
    format: str = "json"

    def expected(self, caller: str) -> int:
        if self.is_public:
            return self.ok
        if caller in {"anonymous", "expired"}:
            return 401
        if caller == "outsider":
            return self.outsider
        if caller == "viewer" and self.method == "post":
            return 403
        return self.ok


def the_job(world: World) -> dict[str, Any]:
    return {"id": world.job.pk}


def the_version(world: World) -> dict[str, Any]:
    return {"id": world.version.adapter_id, "number": 1}


def an_upload(world: World) -> dict[str, Any]:
    row = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    return {"name": "fresh", "file": SimpleUploadedFile("fresh.jsonl", row)}


def a_spec(world: World) -> dict[str, Any]:
    return {"base_model": "tiny", "dataset": {"name": "tickets"}}


CALLS = [
    Call("get", "datasets", outsider=200),
    Call("post", "datasets", body=an_upload, ok=201, outsider=201, format="multipart"),
    Call("get", "dataset", lambda world: {"id": world.job.dataset_versions.get().dataset_id}),
    Call("get", "base-models", outsider=200),
    Call("post", "base-models", body=lambda world: {"name": "smollm2-135m-instruct"}, ok=201, outsider=201),
    Call("get", "base-model", lambda world: {"id": world.job.base_model_id}),
    Call("get", "jobs", outsider=200),
    Call("post", "jobs", body=a_spec, ok=201, outsider=422),
    Call("get", "job", the_job),
    Call("post", "job-cancel", the_job),
    Call("get", "job-events", the_job),
    Call("get", "job-metrics", the_job),
    Call("get", "job-log", the_job),
    Call(
        "post",
        "evaluations",
        body=lambda world: {"adapter": world.version.adapter_id, "dataset": "tickets"},
        ok=201,
        outsider=422,
    ),
    Call("get", "adapters", outsider=200),
    Call("get", "adapter", lambda world: {"id": world.version.adapter_id}),
    Call("get", "adapter-version", the_version),
    Call("get", "adapter-file", lambda world: {**the_version(world), "path": "adapter_config.json"}),
    Call("get", "adapter-archive", the_version),
    Call("get", "workers", outsider=200),
    Call("get", "me", outsider=200),
    Call("get", "health", is_public=True),
    Call("get", "schema", is_public=True),
]
CALLERS = ["owner", "teammate", "viewer", "outsider", "anonymous", "expired"]


def test_every_route_is_here() -> None:
    assert {call.route for call in CALLS} == {pattern.name for pattern in urlpatterns if pattern.name}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method}-{call.route}")
def test_callers_get_what_their_role_allows(call: Call, world: World) -> None:
    address = reverse(f"api:{call.route}", kwargs=call.ids(world))
    for caller in CALLERS:
        with rolled_back():
            check(call, address, caller, world)


def check(call: Call, address: str, caller: str, world: World) -> None:
    before = world.team.jobs.count(), world.team.datasets.count()
    send = getattr(world[caller], call.method)
    response = send(address, call.body(world), format=call.format) if call.method == "post" else send(address)
    content = b"".join(response)  # Also of a download, which closes its file at its end.

    assert response.status_code == call.expected(caller), (caller, content)
    assert "x-request-id" in response or call.route == "schema"
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"code", "message", "remedy", "field", "details"}
        assert error["message"]
        assert error["remedy"]
        assert (world.team.jobs.count(), world.team.datasets.count()) == before
    if caller == "outsider" and call.method == "get" and call.ok == 200 and call.outsider == 200:
        assert b"tickets" not in content


@contextmanager
def rolled_back() -> Iterator[None]:
    """Undo at the end what a caller did, so that the next one finds the same world."""
    with transaction.atomic():
        yield
        transaction.set_rollback(True)


def test_a_member_who_left_the_team_is_out(world: World) -> None:
    world.team.memberships.filter(user=world.alice).delete()
    assert world["owner"].get("/api/jobs").status_code == 401


def test_a_revoked_token_opens_nothing(world: World) -> None:
    world.alice.api_tokens.update(revoked_at=world.job.created_at)
    response = world["owner"].get("/api/jobs")
    assert response.json()["error"]["code"] == "invalid_token"
    assert response["WWW-Authenticate"].startswith("Bearer")


def test_use_of_a_token_is_noted(world: World) -> None:
    world["teammate"].get("/api/me")
    assert world.team.api_tokens.get(user__username="bob").last_used_at is not None
