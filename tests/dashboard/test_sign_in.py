"""Signing in by password and by a one-time link, and out again."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from finetune_hub.accounts.actions import login_link_tokens
from finetune_hub.accounts.models import User
from tests.factories import make_user


@pytest.fixture
def alice(db: None) -> User:
    return make_user("alice", password="correct horse")


def link_of(user: User) -> str:
    return reverse("login-link", args=[user.pk, login_link_tokens.make_token(user)])


def is_signed_in(client: Client) -> bool:
    return "_auth_user_id" in client.session


def test_by_password(client: Client, alice: User) -> None:
    response = client.post(reverse("login"), {"username": "alice", "password": "correct horse", "next": "/datasets/"})
    assert response["Location"] == "/datasets/"
    assert is_signed_in(client)


def test_by_a_wrong_password(client: Client, alice: User) -> None:
    response = client.post(reverse("login"), {"username": "alice", "password": "wrong"})
    assert not is_signed_in(client)
    assert "correct username and password" in response.content.decode()


def test_opening_a_link_spends_nothing_and_pressing_its_button_does(client: Client, alice: User) -> None:
    link = link_of(alice)
    for _ in range(2):
        assert client.get(link).status_code == 200
        assert not is_signed_in(client)
    assert client.post(link, {"next": "/adapters/"})["Location"] == "/adapters/"
    assert is_signed_in(client)


def test_a_link_works_once(client: Client, alice: User) -> None:
    link = link_of(alice)
    client.post(link)
    stranger = Client()
    for response in (stranger.get(link), stranger.post(link)):
        assert response.status_code == 410
        assert "Ask an admin of your team" in response.content.decode()
    assert not is_signed_in(stranger)


def test_a_link_of_somebody_else_or_of_an_inactive_user(client: Client, alice: User) -> None:
    bob = make_user("bob")
    assert client.post(reverse("login-link", args=[bob.pk, login_link_tokens.make_token(alice)])).status_code == 410
    link = link_of(bob)
    User.objects.filter(pk=bob.pk).update(is_active=False)
    assert client.post(link).status_code == 410


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "javascript:alert(1)"])
def test_a_link_leads_to_no_other_site(client: Client, alice: User, target: str) -> None:
    assert client.post(link_of(alice), {"next": target})["Location"] == reverse("home")


def test_signing_out(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.post(reverse("logout"))["Location"] == reverse("login")
    assert not is_signed_in(client)
