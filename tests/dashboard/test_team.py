"""The page of a team: members, the link of a new one, refusals in their place, and the record of changes."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from django.test import Client
from django.urls import reverse

from finetune_hub.accounts.models import AuditEvent, Membership, Role
from finetune_hub.fleet.actions import drain_worker
from tests.dashboard.conftest import World, signed_in
from tests.factories import make_team, make_user


def page_of(client: Client, *args: object) -> str:
    response = client.get(reverse("team-of" if args else "team", args=args))
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def member_of(world: World, username: str) -> Membership:
    return world.team.memberships.get(user__username=username)


def test_a_new_member_comes_in_by_the_link_that_the_page_shows_once(world: World) -> None:
    url = reverse("member-add", args=[world.team.slug])
    response = world["owner"].post(url, {"username": "nina", "role": "viewer"})
    assert response.status_code == 201
    assert "no-store" in response["Cache-Control"]
    link = response.context["link"]
    assert response.content.decode().count(link) == 2  # To read and to copy.
    assert link not in page_of(world["owner"])
    nina = Client()
    assert nina.post(urlsplit(link).path, {"next": "/team/"}).status_code == 302
    assert "nina <small" in page_of(nina)
    assert reverse("member-add", args=[world.team.slug]) not in page_of(nina)


def test_somebody_known_is_added_without_a_link(world: World) -> None:
    make_user("dora")
    response = world["owner"].post(reverse("member-add", args=[world.team.slug]), {"username": "dora", "role": "admin"})
    assert response.status_code == 302
    assert "dora is now in the team, as admin." in page_of(world["owner"])


def test_what_is_refused_stands_beside_its_field(world: World) -> None:
    url = reverse("member-add", args=[world.team.slug])
    for data, status, field in (
        ({"username": "bob", "role": "viewer"}, 409, "username"),
        ({"username": "no body", "role": "viewer"}, 422, "username"),
        ({"username": "nina", "role": "viewer", "email": "nowhere"}, 422, "email"),
        ({"username": "nina", "role": "king"}, 422, "role"),
        ({}, 422, "username"),
    ):
        response = world["owner"].post(url, data)
        assert (response.status_code, field in response.context["form"].errors) == (status, True), data
    assert world.team.memberships.count() == 3


def test_a_role_is_changed_and_a_member_removed(world: World) -> None:
    bob = member_of(world, "bob")
    world["owner"].post(reverse("member-role", args=[world.team.slug, bob.pk]), {"role": "viewer"})
    assert "bob is viewer now." in page_of(world["owner"])
    assert world["teammate"].get(reverse("job-new")).status_code == 403
    world["owner"].post(reverse("member-remove", args=[world.team.slug, bob.pk]))
    page = page_of(world["owner"])
    for sentence in ("changed the role of bob from member to viewer", "removed bob", "bob is no longer in the team"):
        assert sentence in page
    assert world["teammate"].get(reverse("job", args=[world.job.pk])).status_code == 404
    assert "You are in no team" in page_of(world["teammate"])


@pytest.mark.parametrize("name", ["member-role", "member-remove"])
def test_the_last_admin_is_told_why_it_cannot_be(world: World, name: str) -> None:
    url = reverse(name, args=[world.team.slug, member_of(world, "alice").pk])
    response = world["owner"].post(url, {"role": "viewer"})
    assert response.status_code == 409
    assert "alice is the last admin of the team." in response.content.decode()
    assert member_of(world, "alice").role == Role.ADMIN


def test_a_member_of_another_team_is_not_reached_by_its_number(world: World) -> None:
    elsewhere = make_team(make_user()).memberships.get()
    for name in ("member-role", "member-remove"):
        url = reverse(name, args=[world.team.slug, elsewhere.pk])
        assert world["owner"].post(url, {"role": "viewer"}).status_code == 404
    url = reverse("member-role", args=[world.team.slug, member_of(world, "bob").pk])
    assert world["owner"].post(url, {"role": "king"}).status_code == 404


def test_who_is_in_several_teams_chooses(world: World) -> None:
    assert "Your teams" not in page_of(world["owner"])
    other = make_team(world.alice, slug="research")
    page = page_of(world["owner"])
    assert "Your teams" in page
    assert reverse("team-of", args=["research"]) in page
    assert f"<h1>{other.name}</h1>" in page_of(world["owner"], "research")


def test_a_drain_is_told_to_all_teams_and_its_author_to_their_own(world: World) -> None:
    drain_worker(world.worker, actor=world.alice)
    assert "<b>alice</b> drained gpu-1" in page_of(world["viewer"])
    page = page_of(world["outsider"])
    assert "An admin of another team drained gpu-1" in page
    assert "alice" not in page


def test_what_alice_did_stays_told_when_she_has_left(world: World) -> None:
    bob = member_of(world, "bob")
    world["owner"].post(reverse("member-role", args=[world.team.slug, bob.pk]), {"role": "admin"})
    world["teammate"].post(reverse("member-remove", args=[world.team.slug, member_of(world, "alice").pk]))
    assert "<b>alice</b> changed the role of bob" in page_of(world["viewer"])
    assert AuditEvent.objects.filter(team=world.team).count() == 2


def test_the_admin_of_no_team_any_more_drains_nothing(world: World) -> None:
    admin = make_user()
    client = signed_in(admin)
    membership = make_team(admin, role=Role.ADMIN).memberships.get()
    url = reverse("worker-drain", args=[world.worker.name])
    assert client.post(url).status_code == 302
    Membership.objects.filter(pk=membership.pk).update(role=Role.MEMBER)
    assert client.post(url).status_code == 403
