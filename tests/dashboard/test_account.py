"""The page of one's account: a token is shown once with what a pipeline needs, and a password is set and changed."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import ApiToken, User
from tests.dashboard.conftest import World
from tests.factories import make_team

TOKEN = {"name": "ci", "scopes": ["read", "write"], "days": "30"}


def page_of(client: Client) -> str:
    return " ".join(client.get(reverse("account")).content.decode().split())


def test_a_token_is_shown_once_and_opens_the_api(world: World) -> None:
    response = world["teammate"].post(reverse("token-create"), TOKEN)
    assert response.status_code == 201
    assert "no-store" in response["Cache-Control"]
    secret = response.context["secret"]
    shown = response.content.decode()
    assert f"FINETUNE_HUB_URL={settings.PUBLIC_URL}\nFINETUNE_HUB_TOKEN={secret}" in shown
    assert secret not in page_of(world["teammate"])
    me = Client().get("/api/me", headers={"Authorization": f"Bearer {secret}"}).json()
    assert (me["user"], me["team"], me["scopes"]) == ("bob", world.team.slug, ["read", "write"])
    token = ApiToken.objects.get(name="ci")
    assert token.expires_at is not None
    assert abs(token.expires_at - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    world["teammate"].post(reverse("token-revoke", args=[token.pk]))
    assert Client().get("/api/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 401
    assert "The token ci is revoked" in page_of(world["teammate"])


def test_a_token_may_live_until_it_is_revoked(world: World) -> None:
    assert world["teammate"].post(reverse("token-create"), TOKEN | {"days": "never"}).status_code == 201
    assert ApiToken.objects.get(name="ci").expires_at is None


def test_a_viewer_is_offered_and_given_no_more_than_reading(world: World) -> None:
    page = page_of(world["viewer"])
    assert 'value="read"' in page
    assert 'value="write"' not in page
    response = world["viewer"].post(reverse("token-create"), TOKEN)
    assert response.status_code == 422
    assert "scopes" in response.context["token_form"].errors
    assert world["viewer"].post(reverse("token-create"), TOKEN | {"scopes": ["read"]}).status_code == 201


def test_in_several_teams_a_token_gets_the_scopes_of_the_one_chosen(world: World) -> None:
    make_team(world.alice, slug="research")
    data = TOKEN | {"scopes": ["read", "write"], "team": "research"}
    assert world["owner"].post(reverse("token-create"), data).status_code == 201
    assert ApiToken.objects.get(name="ci").team.slug == "research"
    assert world["owner"].post(reverse("token-create"), data | {"team": world.team.slug}).status_code == 201
    assert world["owner"].post(reverse("token-create"), data | {"team": "no-such"}).status_code == 422


def test_a_scope_of_another_team_is_refused_beside_its_field(world: World) -> None:
    vera = User.objects.get(username="vera")
    make_team(vera, slug="research")
    response = world["viewer"].post(reverse("token-create"), TOKEN | {"team": world.team.slug})
    assert response.status_code == 422
    assert "because you do not have it" in response.content.decode()


def test_an_expired_token_says_so_and_a_new_account_what_to_do(world: World) -> None:
    assert "No token yet" in page_of(world["viewer"])
    create_token(world.alice, world.team, name="old", lifetime=timedelta(seconds=-1))
    assert "expired" in page_of(world["owner"])


def test_the_first_password_needs_no_old_one_and_the_next_does(world: World) -> None:
    world.alice.set_unusable_password()
    world.alice.save()
    client = Client()
    client.force_login(world.alice)
    first = {"new_password1": "a long phrase", "new_password2": "a long phrase"}
    assert client.post(reverse("password-change"), first).status_code == 302
    second = {"new_password1": "another phrase", "new_password2": "another phrase"}
    assert client.post(reverse("password-change"), second).status_code == 422
    assert client.post(reverse("password-change"), second | {"old_password": "a long phrase"}).status_code == 302
    assert "Your password is set." in page_of(client)
    assert Client().login(username="alice", password="another phrase")


def test_a_weak_password_is_refused_beside_its_field(world: World) -> None:
    User.objects.filter(username="alice").update(password="!")
    world["owner"].force_login(User.objects.get(username="alice"))
    words = {"new_password1": "password", "new_password2": "password"}
    response = world["owner"].post(reverse("password-change"), words)
    assert response.status_code == 422
    assert "too common" in response.content.decode()
