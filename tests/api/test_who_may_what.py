"""Every route × every kind of caller. A route that is missing here fails the first test."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import transaction
from django.db.models.functions import Now
from django.urls import reverse

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import AuditEvent, Scope
from finetune_hub.api.urls import urlpatterns
from finetune_hub.catalog.aliases import set_alias
from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.fleet.invitations import invite
from finetune_hub.fleet.models import Worker, WorkerRole
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.notifications.actions import connect_chat
from finetune_hub.notifications.models import Wants
from finetune_hub.operations.deletion.actions import delete_thing
from finetune_hub.operations.deletion.deletable import Target
from tests.api.conftest import World, client_with
from tests.factories import make_attempt, make_base_model, make_dataset_version, make_worker


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
    scope: str = ""  # The one it needs; by the method when left out.
    role: str = "member"  # The least that may do it, where it changes something.

    @property
    def needs(self) -> str:
        return self.scope or ("read" if self.method == "get" else "write")

    def expected(self, caller: str) -> int:
        if self.is_public:
            return self.ok
        if caller in {"anonymous", "expired"}:
            return 401
        if caller == "outsider":
            return self.outsider
        if self.method != "get" and (caller == "viewer" or (self.role == "admin" and caller == "teammate")):
            return 403
        return self.ok


def the_job(world: World) -> dict[str, Any]:
    return {"id": world.job.pk}


def a_cancelled_job(world: World) -> dict[str, Any]:
    job = world.job
    Job.objects.filter(pk=job.pk).update(state=JobState.CANCELLED, finished_at=job.created_at)
    return {"id": job.pk}


def the_version(world: World) -> dict[str, Any]:
    return {"id": world.version.adapter_id, "number": 1}


def a_dataset_version(world: World) -> dict[str, Any]:
    return a_version_of(world.job.dataset_versions.get())


def an_idle_version(world: World) -> dict[str, Any]:
    return a_version_of(make_dataset_version(world.team, "idle"))


def a_version_of(version: DatasetVersion) -> dict[str, Any]:
    return {"id": version.dataset_id, "number": version.number}


def a_large_file(world: World) -> dict[str, Any]:
    return {"file_name": "large.jsonl", "size_bytes": 10, "fingerprint": "mine"}


def an_upload(world: World) -> dict[str, Any]:
    row = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
    return {"name": "fresh", "file": SimpleUploadedFile("fresh.jsonl", row)}


def an_alias(world: World) -> dict[str, Any]:
    return {"alias": set_alias(world.team, world.alice, alias="gpt/4o", base_model="tiny").alias}


def a_placed_job(world: World) -> dict[str, Any]:
    make_attempt(world.job, make_worker())
    return {"id": world.job.pk}


def a_spec(world: World) -> dict[str, Any]:
    return {"base_model": "tiny", "dataset": {"name": "tickets"}}


def a_question(world: World) -> dict[str, Any]:
    return {"base_model": "tiny", "datasets": [{"name": "tickets"}]}


def a_newcomer(world: World) -> dict[str, Any]:
    return {"username": "nina", "role": "viewer"}


def the_teammate(world: World) -> dict[str, Any]:
    return {"username": "bob"}


def a_device(world: World) -> dict[str, Any]:
    return {"name": "gpu-1", "kind": "cpu", "index": 0}


def a_chat_room(world: World) -> dict[str, Any]:
    connect_chat(world.team, "https://1.1.1.1/services/secret", Wants.EVERYTHING, actor=world.alice)
    return {}


def a_deletion(world: World) -> dict[str, Any]:
    return {"id": delete_thing(Target("dataset", an_idle_version(world)["id"]), world.alice).pk}


def a_deletion_in_the_trash(world: World) -> dict[str, Any]:
    a_deletion(world)
    return {}


def make_gone_worker() -> Worker:
    return make_worker("gone", heartbeat_at=Now() - timedelta(days=1))


CALLS = [
    Call("get", "datasets", outsider=200),
    Call("post", "datasets", body=an_upload, ok=201, outsider=201, format="multipart"),
    Call("get", "dataset", lambda world: {"id": world.job.dataset_versions.get().dataset_id}),
    Call("get", "dataset-version", a_dataset_version),
    Call("delete", "dataset-version", an_idle_version),
    Call("delete", "dataset", lambda world: {"id": an_idle_version(world)["id"]}),
    Call("get", "dataset-deletion", lambda world: {"id": an_idle_version(world)["id"]}),
    Call("get", "dataset-version-deletion", an_idle_version),
    Call("get", "dataset-rows", a_dataset_version),
    Call(
        "post",
        "dataset-split",
        a_dataset_version,
        lambda world: {"fraction": 0.25},
        ok=201,
    ),
    Call("get", "dataset-comparison", a_dataset_version, ok=422),
    Call("get", "dataset-preview", a_dataset_version, ok=422),
    Call("get", "dataset-tokens", a_dataset_version, ok=422),
    Call("get", "dataset-file", lambda world: a_dataset_version(world) | {"name": "rows.jsonl"}),
    Call("post", "uploads", body=a_large_file, ok=201, outsider=201),
    Call(
        "post",
        "dataset-import",
        body=lambda world: {"name": "fetched", "source": "hf:owner/name:train"},
        ok=201,
        outsider=201,
    ),
    Call("get", "base-models", outsider=200),
    Call("post", "base-models", body=lambda world: {"name": "smollm2-135m-instruct"}, ok=201, outsider=201),
    Call("get", "base-model", lambda world: {"id": world.job.base_model_id}),
    Call("delete", "base-model", lambda world: {"id": make_base_model(world.team, "idle").pk}),
    Call("get", "base-model-deletion", lambda world: {"id": world.job.base_model_id}),
    Call("get", "chat-template", lambda world: {"id": world.job.base_model_id}),
    Call(
        "post",
        "chat-template",
        lambda world: {"id": world.job.base_model_id},
        lambda world: {"template": "chatml"},
        ok=409,
    ),
    Call("get", "aliases", outsider=200),
    Call("post", "aliases", body=lambda world: {"alias": "gpt-4o", "base_model": "tiny"}, ok=200, outsider=422),
    Call("delete", "alias", an_alias),
    Call("get", "huggingface-token", outsider=200),
    Call("put", "huggingface-token", body=lambda world: {"token": "hf_x"}, outsider=200, scope="admin", role="admin"),
    Call("delete", "huggingface-token", outsider=200, scope="admin", role="admin"),
    Call("get", "hub-token", outsider=200),
    Call("put", "hub-token", body=lambda world: {"token": "hf_x"}, outsider=200, scope="admin", role="admin"),
    Call("delete", "hub-token", outsider=200, scope="admin", role="admin"),
    Call("get", "jobs", outsider=200),
    Call("post", "jobs", body=a_spec, ok=201, outsider=422),
    Call("post", "plans", body=a_spec, outsider=422),
    Call("post", "presets", body=a_question, outsider=422),
    Call("get", "job", the_job),
    Call("patch", "job", the_job, lambda world: {"priority": -1}),
    Call("delete", "job", a_cancelled_job),
    Call("get", "job-deletion", the_job),
    Call("post", "job-pause", the_job),
    Call("post", "job-resume", the_job),
    Call("post", "job-preempt", a_placed_job, role="admin"),
    Call("post", "job-cancel", the_job),
    Call("post", "job-retry", a_cancelled_job),
    Call("post", "job-clone", the_job, ok=201),
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
    Call("get", "job-kinds", outsider=200),
    Call(
        "post",
        "job-kind",
        lambda _: {"name": "evaluate"},
        body=lambda world: {"adapter": world.version.adapter_id, "dataset": "tickets"},
        ok=201,
        outsider=422,
    ),
    Call("post", "recipe-import", body=lambda world: {"text": "base_model: m\ndataset: {name: d}"}, outsider=200),
    Call("get", "adapters", outsider=200),
    Call("get", "adapter", lambda world: {"id": world.version.adapter_id}),
    Call("get", "adapter-version", the_version),
    Call("delete", "adapter", lambda world: {"id": world.version.adapter_id}),
    Call("delete", "adapter-version", the_version),
    Call("get", "adapter-deletion", lambda world: {"id": world.version.adapter_id}),
    Call("get", "adapter-version-deletion", the_version),
    Call("get", "trash", a_deletion_in_the_trash, outsider=200),
    Call("post", "restore", a_deletion),
    Call("get", "adapter-file", lambda world: {**the_version(world), "path": "adapter_config.json"}),
    Call("get", "adapter-archive", the_version),
    Call("get", "workers", outsider=200),
    Call("get", "worker-invitations", outsider=200),
    Call("post", "worker-drain", lambda world: {"name": "gpu-1"}, outsider=200, scope="admin", role="admin"),
    Call("post", "worker-resume", lambda world: {"name": "gpu-1"}, outsider=200, scope="admin", role="admin"),
    Call(
        "patch",
        "device",
        a_device,
        lambda world: {"is_shared": True},
        outsider=200,
        scope="admin",
        role="admin",
    ),
    Call(
        "delete",
        "worker",
        lambda world: {"name": make_gone_worker().name},
        ok=204,
        outsider=204,
        scope="admin",
        role="admin",
    ),
    Call("post", "device-release", a_device, outsider=200, scope="admin", role="admin"),
    Call("get", "health-report", outsider=200),
    Call("get", "email-notifications", outsider=200),
    Call("put", "email-notifications", body=lambda world: {"wants": "nothing", "email": ""}, outsider=200),
    Call("get", "chat-webhook", a_chat_room),
    Call(
        "put",
        "chat-webhook",
        body=lambda world: {"url": "https://1.1.1.1/x"},
        outsider=200,
        scope="admin",
        role="admin",
    ),
    Call("delete", "chat-webhook", a_chat_room, ok=204, outsider=204, scope="admin", role="admin"),
    Call("get", "quotas", outsider=200),
    Call("get", "usage", outsider=200),
    Call("get", "members", outsider=200),
    Call("post", "members", body=a_newcomer, ok=201, outsider=201, scope="admin", role="admin"),
    Call("patch", "member", the_teammate, lambda world: {"role": "viewer"}, scope="admin", role="admin"),
    Call("delete", "member", the_teammate, ok=204, scope="admin", role="admin"),
    Call("get", "tokens", outsider=200),
    Call("post", "tokens", body=lambda world: {"name": "ci"}, ok=201, outsider=201),
    Call("get", "me", outsider=200, scope="any"),
    Call("get", "health", is_public=True),
    Call("get", "schema", is_public=True),
]
CALLERS = ["owner", "teammate", "viewer", "outsider", "anonymous", "expired"]


def test_every_route_is_here() -> None:
    assert {call.route for call in CALLS} | {"token", "upload", "quota", "worker-invitation"} == {
        pattern.name for pattern in urlpatterns if pattern.name
    }


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method}-{call.route}")
def test_callers_get_what_their_role_allows(call: Call, world: World) -> None:
    address = reverse(f"api:{call.route}", kwargs=call.ids(world))
    for caller in CALLERS:
        with rolled_back():
            check(call, address, caller, world)


def check(call: Call, address: str, caller: str, world: World) -> None:
    before = rows_of(world)
    send = getattr(world[caller], call.method)
    response = send(address) if call.method == "get" else send(address, call.body(world), format=call.format)
    content = b"".join(response)  # Also of a download, which closes its file at its end.

    assert response.status_code == call.expected(caller), (caller, content)
    assert "x-request-id" in response or call.route == "schema"
    if response.status_code >= 400:
        error = response.json()["error"]
        assert set(error) == {"code", "message", "remedy", "field", "details"}
        assert error["message"]
        assert error["remedy"]
        assert rows_of(world) == before
    if caller == "outsider" and call.method == "get" and call.ok == 200 and call.outsider == 200:
        assert b"tickets" not in content


def rows_of(world: World) -> tuple[int, ...]:
    """What a refused call must leave as it is."""
    team = world.team
    return team.jobs.count(), team.datasets.count(), team.memberships.count(), AuditEvent.objects.count()


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method}-{call.route}")
def test_a_token_does_no_more_than_its_scopes(call: Call, world: World) -> None:
    """alice may do all of it; her token does what it has the scope for."""
    address = reverse(f"api:{call.route}", kwargs=call.ids(world))
    for scope in Scope.values:
        client = client_with(world.alice, world.team, scopes=[scope])
        with rolled_back():
            send = getattr(client, call.method)
            response = send(address) if call.method == "get" else send(address, call.body(world), format=call.format)
            content = b"".join(response)
            if call.is_public or call.needs in {scope, "any"}:
                assert b"insufficient_scope" not in content, scope
                continue
            assert response.status_code == 403, (scope, content)
            error = response.json()["error"]
            assert error["code"] == "insufficient_scope"
            assert f"`{call.needs}`" in error["message"]


@pytest.mark.parametrize("caller", ["owner", "teammate", "viewer", "outsider", "anonymous", "expired"])
def test_a_token_is_its_users_alone(caller: str, world: World) -> None:
    token, _ = create_token(world.alice, world.team, name="ci")
    expected = {"owner": 204, "viewer": 403, "anonymous": 401, "expired": 401}
    address = reverse("api:token", kwargs={"id": token.pk})
    assert world[caller].delete(address).status_code == expected.get(caller, 404)
    token.refresh_from_db()
    assert (token.revoked_at is not None) == (caller == "owner")


@pytest.mark.parametrize("caller", CALLERS)
def test_an_upload_is_its_senders_alone(caller: str, world: World) -> None:
    begun = world["owner"].post("/api/uploads", a_large_file(world)).json()
    expected = {"owner": 200, "anonymous": 401, "expired": 401}
    address = reverse("api:upload", kwargs={"id": begun["id"]})
    assert world[caller].get(address).status_code == expected.get(caller, 404)
    sent = world[caller].put(f"{address}?offset=0", b"12345", content_type="application/octet-stream")
    assert sent.status_code == (403 if caller == "viewer" else expected.get(caller, 404))
    received = world["owner"].get(address).json()["received_bytes"]
    assert received == (5 if caller == "owner" else 0)


@pytest.mark.parametrize("caller", CALLERS)
def test_quotas_are_set_by_staff_alone(caller: str, world: World) -> None:
    """An admin of a team is none of the hub; staff set the quota of any team, with a token that may."""
    address = reverse("api:quota", kwargs={"slug": world.team.slug})
    body = {"max_devices": 4, "weight": 2}
    expected = 401 if caller in {"anonymous", "expired"} else 403
    assert world[caller].put(address, body, format="json").status_code == expected
    assert not AuditEvent.objects.filter(verb="quota_changed").exists()
    world.alice.is_staff = True
    world.alice.save()
    answered = world["owner"].put(address, body, format="json")
    assert (answered.status_code, answered.json()["max_devices"], answered.json()["max_hours"]) == (200, 4, None)
    assert client_with(world.alice, world.team, scopes=["write"]).put(address, body, format="json").status_code == 403
    assert [str(event) for event in AuditEvent.objects.filter(verb="quota_changed")] == [
        "alice changed the quota to 4 devices at a time, any number of hours per month, weight 2"
    ]


@pytest.mark.parametrize("caller", CALLERS)
def test_workers_are_invited_by_staff_alone(caller: str, world: World) -> None:
    """The answer has the password, once; the list, the record and the database do not."""
    invitations, one = reverse("api:worker-invitations"), reverse("api:worker-invitation", kwargs={"name": "gpu-7"})
    expected = 401 if caller in {"anonymous", "expired"} else 403
    assert world[caller].post(invitations, {"name": "gpu-7"}, format="json").status_code == expected
    assert world[caller].delete(one).status_code == expected
    assert not WorkerRole.objects.exists()
    world.alice.is_staff = True
    world.alice.save()
    answered = world["owner"].post(invitations, {"name": "gpu-7"}, format="json")
    assert answered.status_code == 201
    assert "no-store" in answered["Cache-Control"]
    role = WorkerRole.objects.get()
    password = re.search(f"//{role.role_name}:([^@]{{40,}})@", answered.json()["environment"]["DATABASE_URL"])
    assert password
    assert answered.json()["command"] == "finetune-hub worker --name gpu-7"
    listed = world["owner"].get(invitations)
    assert [row["name"] for row in listed.json()["data"]] == ["gpu-7"]
    assert password[1] not in listed.content.decode() + repr(invite("gpu-7", actor=world.alice))
    weak = client_with(world.alice, world.team, scopes=["write"])
    assert (weak.post(invitations, {"name": "gpu-8"}, format="json").status_code, weak.delete(one).status_code) == (
        403,
        403,
    )
    assert (
        world["owner"].post(invitations, {"name": "No Name"}, format="json").json()["error"]["code"] == "invalid_name"
    )
    assert [world["owner"].delete(one).status_code for _ in range(2)] == [204, 404]
    assert not WorkerRole.objects.exists()
    assert [str(event) for event in AuditEvent.objects.filter(verb__startswith="worker_").order_by("pk")] == [
        "alice invited the worker gpu-7",
        "alice invited the worker gpu-7",
        "alice revoked the worker gpu-7",
    ]


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
