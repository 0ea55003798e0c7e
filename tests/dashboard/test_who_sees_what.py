"""Every address × everybody: members see, viewers change nothing, outsiders find nothing, strangers sign in first."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db.models.functions import Now
from django.urls import URLPattern, reverse

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import ApiToken, AuditEvent, Membership, Role, User
from finetune_hub.catalog.aliases import set_alias
from finetune_hub.catalog.models import BaseModelAlias, DatasetVersion, Deletion
from finetune_hub.dashboard.middleware import CONTENT_SECURITY_POLICY
from finetune_hub.dashboard.urls import urlpatterns
from finetune_hub.fleet.models import TeamQuota, WorkerRole
from finetune_hub.jobs.models import Job
from finetune_hub.operations.deletion.actions import delete_thing
from finetune_hub.operations.deletion.deletable import Target
from tests.dashboard.conftest import CALLERS, World, signed_in
from tests.factories import make_dataset_version, make_team, make_user

CONFIRMATIONS = {
    "adapter-deletion",
    "adapter-version-deletion",
    "dataset-deletion",
    "dataset-version-deletion",
    "base-model-deletion",
    "job-deletion",
}
OPEN_TO_STRANGERS = {"login", "login-link", "logout"}
LISTS = {
    "home",
    "jobs",
    "datasets",
    "base-models",
    "adapters",
    "workers",
    "quotas",
    "health",
    "team",
    "account",
}
FORMS = {"job-new", "job-new-of-kind", "recipe-import", "dataset-upload"}
DEEDS = {
    "job-pause",
    "job-resume",
    "job-cancel",
    "job-retry",
    "job-priority",
    "job-plan",
    "base-model-import",
    "base-model-upload",
    "dataset-import",
    "alias-set",
    "alias-remove",
    "chat-template",
    "dataset-split",
    "dataset-delete",
    "restore",
    "upload-begin",
    "upload-part",
}
ABOUT_TWO = {"dataset-comparison"}  # Of the team too, and 404 without the other one.
DEEDS_OF_STAFF = {"quota-change", "worker-invite", "worker-revoke"}
DEEDS_OF_ADMINS = {
    "job-preempt",
    "worker-drain",
    "worker-resume",
    "worker-remove",
    "device-share",
    "device-release",
    "member-add",
    "member-role",
    "member-remove",
    "huggingface-token-set",
    "huggingface-token-remove",
    "hub-token-set",
    "hub-token-remove",
    "chat-connect",
    "chat-disconnect",
}
FOR_EVERYBODY = {"docs", "guide"}  # Whoever is signed in, of whatever team.
OF_THE_HUB = {"usage", "usage-csv"}  # For staff alone.
DEEDS_FOR_ONESELF = {"password-change", "email-wish", "token-create", "token-revoke"}
OF_THE_TEAM = {
    "job",
    "job-stream",
    "job-metrics",
    "job-recipe",
    "dataset",
    "dataset-version",
    "dataset-preview",
    "dataset-lengths",
    "dataset-file",
    "dataset-rows",
    "adapter",
    "adapter-version",
    "adapter-file",
    "adapter-zip",
    "team-of",
    "team-usage",
    "team-usage-csv",
    "team-trash",
}


def address(world: World, name: str) -> str:
    dataset = world.job.job_datasets.get().dataset_version.dataset_id
    adapter = world.version.adapter_id
    arguments = {
        "job": [world.job.pk],
        "job-new-of-kind": ["evaluate"],
        "job-stream": [world.job.pk],
        "job-metrics": [world.job.pk],
        "job-recipe": [world.job.pk],
        "job-pause": [world.job.pk],
        "job-resume": [world.job.pk],
        "job-preempt": [world.job.pk],
        "job-cancel": [world.job.pk],
        "job-retry": [world.job.pk],
        "job-priority": [world.job.pk],
        "dataset": [dataset],
        "dataset-version": [dataset, 1],
        "dataset-preview": [dataset, 1],
        "dataset-lengths": [dataset, 1],
        "dataset-file": [dataset, 1, "rows.jsonl"],
        "dataset-rows": [dataset, 1],
        "upload-part": ["up-none"],
        "dataset-comparison": [dataset, 1],
        "dataset-split": [dataset, 1],
        "dataset-delete": [dataset, 1],
        "adapter": [adapter],
        "adapter-version": [adapter, 1],
        "adapter-file": [adapter, 1, "adapter_config.json"],
        "adapter-zip": [adapter, 1],
        "worker-drain": [world.worker.name],
        "worker-resume": [world.worker.name],
        "device-share": [world.worker.name, "cpu", 0],
        "quota-change": [world.team.slug],
        "chat-template": [world.job.base_model_id],
        "alias-remove": [an_alias_of(world).pk],
        "huggingface-token-set": [world.team.slug],
        "huggingface-token-remove": [world.team.slug],
        "hub-token-set": [world.team.slug],
        "hub-token-remove": [world.team.slug],
        "worker-revoke": [world.worker.name],
        "worker-remove": [world.worker.name],
        "device-release": [world.worker.name, "cpu", 0],
        "chat-connect": [world.team.slug],
        "chat-disconnect": [world.team.slug],
        "team-of": [world.team.slug],
        "team-trash": [world.team.slug],
        "adapter-deletion": [adapter],
        "adapter-version-deletion": [adapter, 1],
        "dataset-deletion": [dataset],
        "dataset-version-deletion": [dataset, 1],
        "base-model-deletion": [world.job.base_model_id],
        "job-deletion": [world.job.pk],
        "restore": [a_deletion_of(world).pk] if name == "restore" else [],
        "team-usage": [world.team.slug],
        "team-usage-csv": [world.team.slug],
        "member-add": [world.team.slug],
        "member-role": [world.team.slug, membership_of(world, "bob").pk],
        "member-remove": [world.team.slug, membership_of(world, "bob").pk],
        "guide": ["jobs"],
        "token-revoke": [a_token_of(world, "alice").pk],
    }
    return reverse(name, args=arguments.get(name, []))


def membership_of(world: World, username: str) -> Membership:
    return world.team.memberships.get(user__username=username)


def a_deletion_of(world: World) -> Deletion:
    return delete_thing(Target("dataset", make_dataset_version(world.team, "idle").dataset_id), world.alice)


def an_alias_of(world: World) -> BaseModelAlias:
    return set_alias(world.team, world.alice, alias="gpt-4o", base_model=world.job.over.name)


def a_token_of(world: World, username: str) -> ApiToken:
    user = User.objects.get(username=username)
    return user.api_tokens.first() or create_token(user, world.team, name="ci")[0]


def test_the_matrix_names_every_address() -> None:
    named = ABOUT_TWO | OPEN_TO_STRANGERS | LISTS | FORMS | DEEDS | DEEDS_OF_ADMINS | DEEDS_OF_STAFF
    named |= CONFIRMATIONS | DEEDS_FOR_ONESELF | OF_THE_TEAM | OF_THE_HUB | FOR_EVERYBODY
    assert {pattern.name for pattern in urlpatterns if isinstance(pattern, URLPattern)} == named


@pytest.mark.parametrize(
    "name", sorted(LISTS | FORMS | CONFIRMATIONS | OF_THE_HUB | FOR_EVERYBODY | (OF_THE_TEAM - {"job-stream"}))
)
def test_reading(world: World, name: str) -> None:
    for caller in CALLERS:
        response = world[caller].get(address(world, name))
        if response.streaming:
            list(response.streaming_content)  # To its end, where the file is closed.
        assert response.status_code == expected_status(name, caller), caller
        assert response["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
        if caller == "anonymous":
            assert response["Location"].startswith(reverse("login"))


def expected_status(name: str, caller: str) -> int:
    if caller == "anonymous":
        return 302
    if name in OF_THE_HUB or (name in FORMS | CONFIRMATIONS and caller == "viewer"):
        return 403
    if name in OF_THE_TEAM | CONFIRMATIONS and caller == "outsider":
        return 404
    return 200


@pytest.mark.parametrize("name", sorted(LISTS))
def test_an_outsider_finds_no_name_of_the_team(world: World, name: str) -> None:
    page = world["outsider"].get(address(world, name)).content.decode()
    for word in ("tickets-tiny", world.team.name, world.job.pk):
        assert word not in page


# What the job of each deed has to be like, and what it is like afterwards.
STEERING: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "job-pause": ({}, {"desired_state": "pause"}),
    "job-resume": ({"desired_state": "pause"}, {"desired_state": "run"}),
    "job-cancel": ({}, {"desired_state": "cancel"}),
    "job-retry": ({"state": "cancelled", "finished_at": Now()}, {"state": "validating", "finished_at": None}),
    "job-priority": ({}, {"priority": -4}),
}


@pytest.mark.parametrize(
    ("caller", "status"), [("teammate", 302), ("viewer", 403), ("outsider", 404), ("anonymous", 302)]
)
@pytest.mark.parametrize("name", STEERING)
def test_steering(world: World, name: str, caller: str, status: int) -> None:
    prepare, changed = STEERING[name]
    Job.objects.filter(pk=world.job.pk).update(**prepare)
    before = Job.objects.values().get(pk=world.job.pk)
    response = world[caller].post(address(world, name), {"priority": "-4"})
    assert response.status_code == status
    after = Job.objects.values().get(pk=world.job.pk)
    if caller != "teammate":
        assert after == before
    else:
        assert {key: after[key] for key in changed} == changed
        assert world.job.events.last().actor.username == "bob"


@pytest.mark.parametrize(
    "name",
    [
        "job-new",
        "job-new-of-kind",
        "recipe-import",
        "dataset-upload",
        "dataset-import",
        "base-model-import",
        "base-model-upload",
        "alias-set",
        "alias-remove",
        "chat-template",
        "upload-begin",
    ],
)
def test_a_viewer_may_not_submit(world: World, name: str) -> None:
    assert world["viewer"].post(address(world, name), {"name": "x"}).status_code == 403


@pytest.mark.parametrize("name", ["dataset-split", "dataset-delete"])
@pytest.mark.parametrize(("caller", "status"), [("viewer", 403), ("outsider", 404), ("anonymous", 302)])
def test_datasets_are_the_members_to_change(world: World, name: str, caller: str, status: int) -> None:
    versions = DatasetVersion.objects.alive().count()
    response = world[caller].post(address(world, name), {"percent": 20, "seed": 7})
    assert response.status_code == status
    assert DatasetVersion.objects.alive().count() == versions


@pytest.mark.parametrize("name", [*sorted(CONFIRMATIONS), "restore"])
@pytest.mark.parametrize(("caller", "status"), [("viewer", 403), ("outsider", 404), ("anonymous", 302)])
def test_the_members_delete_and_restore(world: World, name: str, caller: str, status: int) -> None:
    url, before = address(world, name), Deletion.objects.open().count()
    assert world[caller].post(url).status_code == status
    assert Deletion.objects.open().count() == before


@pytest.mark.parametrize("name", ["chat-template", "alias-remove"])
@pytest.mark.parametrize(("caller", "status"), [("viewer", 403), ("outsider", 404), ("anonymous", 302)])
def test_base_models_are_the_members_to_change(world: World, name: str, caller: str, status: int) -> None:
    assert world[caller].post(address(world, name), {"template": "chatml"}).status_code == status
    assert an_alias_of(world).base_model == world.job.over


@pytest.mark.parametrize(("caller", "status"), [("viewer", 200), ("outsider", 404), ("anonymous", 302)])
def test_comparing_stays_in_the_team(world: World, caller: str, status: int) -> None:
    other = make_dataset_version(world.team, "others")
    assert world[caller].get(address(world, "dataset-comparison"), {"other": other.pk}).status_code == status
    theirs = make_dataset_version(make_team(make_user()), "theirs")
    response = world["owner"].get(address(world, "dataset-comparison"), {"other": theirs.pk})
    assert response.status_code == 404


def test_a_viewer_sees_no_buttons(world: World) -> None:
    for name in ("jobs", "datasets", "job", "dataset"):
        page = world["viewer"].get(address(world, name)).content.decode()
        deeds = [address(world, deed) for deed in ("job-cancel", "job-pause", "job-priority")]
        for path in (reverse("job-new"), reverse("dataset-upload"), *deeds):
            assert path not in page
            assert path in "".join(
                world["owner"].get(address(world, each)).content.decode() for each in ("jobs", "datasets", "job")
            )


# What each deed of an admin is sent, and what it is answered. An admin of any team manages the workers.
DATA = {
    "member-add": {"username": "bob", "role": "viewer"},
    "member-role": {"role": "viewer"},
    "huggingface-token-set": {"token": "hf_x"},
    "hub-token-set": {"token": "hf_x"},
}
REFUSED_TO_MEMBERS = {"owner": 302, "teammate": 403, "viewer": 403, "outsider": 404, "anonymous": 302}


@pytest.mark.parametrize("name", sorted(DEEDS_OF_ADMINS))
@pytest.mark.parametrize("caller", CALLERS)
def test_only_admins_manage(world: World, name: str, caller: str) -> None:
    expected = REFUSED_TO_MEMBERS[caller]
    if name == "member-add" and caller == "owner":
        expected = 409  # bob is in the team already.
    if name in {"worker-remove", "chat-connect"} and caller == "owner":
        expected = 409 if name == "worker-remove" else 422  # It is there; no address was given.
    if name.startswith(("worker-", "device-")) and caller == "outsider":
        expected = 409 if name == "worker-remove" else 302
    url, recorded = address(world, name), AuditEvent.objects.count()
    response = world[caller].post(url, DATA.get(name, {}))
    assert response.status_code == expected
    if caller == "anonymous":
        assert response["Location"].startswith(reverse("login"))
    if caller not in {"owner", "outsider"}:
        assert AuditEvent.objects.count() == recorded
        assert membership_of(world, "bob").role == Role.MEMBER


@pytest.mark.parametrize("name", sorted(DEEDS_FOR_ONESELF))
def test_what_one_does_for_oneself(world: World, name: str) -> None:
    """Everybody signed in has a password and tokens; alice's token is hers alone, for her teammates too."""
    url = address(world, name)
    expected = {"anonymous": 302, "owner": 302 if name == "token-revoke" else 422}
    for caller in reversed(CALLERS):
        status = world[caller].post(url).status_code
        assert status == expected.get(caller, 404 if name == "token-revoke" else 422), caller
        assert a_token_of(world, "alice").revoked_at is None or caller == "owner"


@pytest.mark.parametrize("caller", CALLERS)
def test_only_staff_set_quotas(world: World, caller: str) -> None:
    """Not even an admin of the team; of other teams' quotas nobody else sees anything."""
    url, data = address(world, "quota-change"), {f"{world.team.slug}-weight": "2"}
    assert world[caller].post(url, data).status_code == (302 if caller == "anonymous" else 403)
    assert not TeamQuota.objects.exists()
    page = world[caller].get(reverse("quotas")).content.decode()
    assert (world.team.name in page) == (caller in {"owner", "teammate", "viewer"})
    assert url not in page
    staff = signed_in(make_user(is_staff=True))
    assert staff.post(url, data).status_code == 302
    assert staff.post(url, {f"{world.team.slug}-weight": "0"}).status_code == 422
    assert TeamQuota.objects.get(team=world.team).weight == 2
    assert url in staff.get(reverse("quotas")).content.decode()


@pytest.mark.parametrize("caller", CALLERS)
def test_only_staff_invite_workers(world: World, caller: str) -> None:
    """Whoever invites learns the hub's addresses, and all teams' jobs come: no admin of a team decides that alone."""
    invite, revoke = address(world, "worker-invite"), address(world, "worker-revoke")
    for url in (invite, revoke):
        assert world[caller].post(url, {"name": "gpu-7"}).status_code == (302 if caller == "anonymous" else 403)
    assert not WorkerRole.objects.exists()
    assert invite not in world[caller].get(reverse("workers")).content.decode()
    staff = signed_in(make_user(is_staff=True))
    page = staff.post(invite, {"name": world.worker.name})
    role = WorkerRole.objects.get()
    shown = re.search(f"//{role.role_name}:([^@]+)@", page.content.decode())
    assert shown
    assert "no-store" in page["Cache-Control"]
    again = staff.get(reverse("workers")).content.decode()
    assert revoke in again
    assert shown[1] not in again
    assert staff.post(invite, {"name": "No Name"}).status_code == 422
    assert [staff.post(revoke).status_code for _ in range(2)] == [302, 404]
    assert not WorkerRole.objects.exists()


def test_a_member_sees_no_buttons_of_admins(world: World) -> None:
    for name, deed in (
        ("job", "job-preempt"),
        ("workers", "worker-drain"),
        ("team", "member-add"),
        ("team", "member-remove"),
    ):
        url = address(world, deed)
        assert url in world["owner"].get(address(world, name)).content.decode()
        assert url not in world["teammate"].get(address(world, name)).content.decode()


def test_staff_of_no_team_manages_workers_but_no_members(world: World) -> None:
    staff = signed_in(make_user(is_staff=True))
    assert staff.post(address(world, "worker-drain")).status_code == 302
    assert staff.post(address(world, "member-remove")).status_code == 404


@pytest.mark.parametrize("name", sorted(OF_THE_HUB))
def test_staff_sees_what_all_teams_used(world: World, name: str) -> None:
    page = signed_in(make_user(is_staff=True)).get(address(world, name))
    assert world.team.slug in page.content.decode()


def test_an_outsider_sees_that_a_worker_is_busy_but_not_with_what(world: World) -> None:
    page = world["outsider"].get(reverse("workers")).content.decode()
    assert "A job of another team" in page
    assert world.worker.name in page


@pytest.mark.parametrize("name", sorted(DEEDS | DEEDS_OF_STAFF | DEEDS_OF_ADMINS | DEEDS_FOR_ONESELF | {"logout"}))
def test_a_get_changes_nothing(world: World, name: str) -> None:
    assert world["owner"].get(address(world, name)).status_code == 405


def test_forms_need_their_token(world: World) -> None:
    world["owner"].handler.enforce_csrf_checks = True
    response = world["owner"].post(address(world, "job-cancel"))
    assert response.status_code == 403
    assert "Nothing was changed" in response.content.decode()
