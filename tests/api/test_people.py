"""Members, tokens and drains over the API: what comes back, and what is refused with which code."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.cache.backends.locmem import LocMemCache
from rest_framework.test import APIClient
from rest_framework.throttling import UserRateThrottle

from finetune_hub.accounts.models import Membership, Role
from finetune_hub.fleet.models import Worker
from tests.api.conftest import World, client_with


def code_of(response: Any, status: int) -> str:
    assert response.status_code == status, response.content
    return str(response.json()["error"]["code"])


def test_a_member_is_added_changed_and_removed(world: World) -> None:
    admin = world["owner"]
    added = admin.post("/api/members", {"username": "nina", "role": "viewer", "email": "nina@example.org"}).json()
    assert (added["username"], added["role"], added["last_sign_in_at"]) == ("nina", "viewer", None)
    assert "/login/link/" in added["login_link"]
    assert admin.patch("/api/members/nina", {"role": "member"}).json()["role"] == "member"
    listed = {member["username"]: member["role"] for member in admin.get("/api/members").json()["data"]}
    assert listed == {"alice": "admin", "bob": "member", "vera": "viewer", "nina": "member"}
    assert admin.delete("/api/members/nina").status_code == 204
    assert code_of(admin.delete("/api/members/nina"), 404) == "not_found"


def test_who_asks_too_often_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UserRateThrottle, "rate", "2/minute", raising=False)
    monkeypatch.setattr(UserRateThrottle, "cache", LocMemCache("throttle", {}))
    assert [world["viewer"].get("/api/me").status_code for _ in range(2)] == [200, 200]
    refused = world["viewer"].get("/api/me")
    assert code_of(refused, 429) == "too_many_requests"
    assert 0 < int(refused["Retry-After"]) <= 60
    assert world["teammate"].get("/api/me").status_code == 200


def test_what_the_team_does_not_allow(world: World) -> None:
    admin = world["owner"]
    assert code_of(admin.delete("/api/members/alice"), 409) == "last_admin"
    assert code_of(admin.patch("/api/members/alice", {"role": "viewer"}), 409) == "last_admin"
    assert code_of(admin.post("/api/members", {"username": "bob"}), 409) == "already_member"
    assert code_of(admin.post("/api/members", {"username": ".."}), 422) == "invalid_username"
    assert code_of(admin.post("/api/members", {"username": "x", "email": "nowhere"}), 422) == "invalid_email"
    assert code_of(admin.post("/api/members", {"username": "x", "role": "king"}), 422) == "invalid_request"
    assert code_of(admin.patch("/api/members/charlie", {"role": "viewer"}), 404) == "not_found"
    assert code_of(world["outsider"].patch("/api/members/bob", {"role": "viewer"}), 404) == "not_found"


def test_a_removed_members_token_stops_at_once(world: World) -> None:
    assert world["teammate"].get("/api/jobs").status_code == 200
    world["owner"].delete("/api/members/bob")
    assert code_of(world["teammate"].get("/api/jobs"), 401) == "invalid_token"


def test_a_token_follows_its_users_role(world: World) -> None:
    """The scope `admin` of a token made by an admin is worth nothing once they are none."""
    Membership.objects.filter(user=world.alice).update(role=Role.VIEWER)
    for answer in (
        world["owner"].post("/api/members", {"username": "nina"}),
        world["owner"].post("/api/workers/gpu-1/drain"),
        world["owner"].post("/api/jobs", {}),
    ):
        assert code_of(answer, 403) == "forbidden"
    assert world["owner"].get("/api/me").json()["role"] == "viewer"


def test_a_token_makes_lists_and_revokes_others(world: World) -> None:
    made = world["owner"].post("/api/tokens", {"name": "ci", "scopes": ["write", "read"], "days": None}).json()
    assert made["scopes"] == ["read", "write"]
    assert made["expires_at"] == world["owner"].get("/api/me").json()["expires_at"]  # No longer than its maker.
    listed = world["owner"].get("/api/tokens").json()["data"]
    assert made["id"] in {token["id"] for token in listed}
    assert "secret" not in listed[0]
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {made['secret']}")
    assert client.get("/api/me").json()["scopes"] == ["read", "write"]
    assert client.delete(f"/api/tokens/{made['id']}").status_code == 204
    assert code_of(client.get("/api/me"), 401) == "invalid_token"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "x", "scopes": ["admin"]}, 403, "scope_not_allowed"),
        ({"name": "x", "scopes": ["all"]}, 422, "invalid_request"),
        ({"name": "x", "scopes": []}, 422, "invalid_request"),
        ({"name": "", "scopes": ["read"]}, 422, "invalid_request"),
        ({"name": "x", "days": 0}, 422, "invalid_request"),
    ],
)
def test_a_token_that_cannot_be_made(body: dict[str, Any], status: int, code: str, world: World) -> None:
    client = client_with(world.alice, world.team, scopes=["read", "write"])
    before = world.team.api_tokens.count()
    assert code_of(client.post("/api/tokens", body), status) == code
    assert world.team.api_tokens.count() == before


def test_drain_and_resume(world: World) -> None:
    for verb, health in (("drain", "drained"), ("drain", "drained"), ("resume", "healthy")):
        answer = world["owner"].post(f"/api/workers/gpu-1/{verb}").json()
        assert (answer["health"], answer["drain_requested"]) == (health, verb == "drain")
    assert not Worker.objects.get().drain_requested
    assert code_of(world["owner"].post("/api/workers/none/drain"), 404) == "not_found"


@pytest.mark.parametrize("path", ["/api/members/%00", "/api/members/a%20b", "/api/members/", "/api/tokens/UPPER"])
def test_an_address_that_no_row_can_have(path: str, world: World) -> None:
    assert code_of(world["owner"].delete(path), 404) == "not_found"


def test_the_huggingface_token_is_never_answered(world: World) -> None:
    admin = world["owner"]
    answers = [
        admin.put("/api/huggingface-token", {"token": "hf_secretsecret"}),
        admin.get("/api/huggingface-token"),
        admin.put("/api/huggingface-token", {"token": "hf_secretsecret with more"}),
        admin.put("/api/huggingface-token", {"token": ["hf_secretsecret"]}),
        admin.put("/api/huggingface-token", {"token": 1, "x": "hf_secretsecret"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 422, 422, 422]
    assert answers[1].json()["set_by"] == "alice"
    assert not any(b"hf_secretsecret" in answer.content for answer in answers)


def test_the_huggingface_token_answers_at_its_former_address(world: World) -> None:
    admin = world["owner"]
    answer = admin.put("/api/hub-token", {"token": "hf_secretsecret"})
    assert answer.json() == admin.get("/api/huggingface-token").json() == admin.get("/api/hub-token").json()
    assert answer["Link"] == '</api/huggingface-token>; rel="successor-version"'
    assert code_of(admin.put("/api/hub-token", {"token": "not a token"}), 422) == "invalid_hub_token"
    assert not admin.delete("/api/hub-token").json()["is_set"]
