"""A team's Hugging Face token: set by admins, sealed in the database, seen by nobody again, recorded without itself."""

from __future__ import annotations

from typing import Any

import pytest
from django.core import serializers
from django.db import connection

from finetune_hub.accounts.huggingface_tokens import (
    open_huggingface_token,
    remove_huggingface_token,
    set_huggingface_token,
)
from finetune_hub.accounts.models import AuditEvent, HuggingFaceToken, Role
from finetune_hub.spec.refusal import Refusal
from tests.factories import first_member, make_team, make_user
from tests.fake_huggingface import TOKEN

pytestmark = pytest.mark.django_db


def test_it_is_kept_sealed_and_opens_again() -> None:
    team = make_team(make_user("alice"), role=Role.ADMIN)
    set_huggingface_token(team, f" {TOKEN}\n", actor=first_member(team))
    assert open_huggingface_token(team) == TOKEN
    stored = serializers.serialize("json", [*HuggingFaceToken.objects.all(), *AuditEvent.objects.all()])
    assert TOKEN not in stored
    with connection.cursor() as cursor:
        cursor.execute("SELECT sealed FROM accounts_hubtoken")
        assert TOKEN not in str(cursor.fetchall())
    assert [str(event) for event in AuditEvent.objects.all()] == ["alice set the Hugging Face token"]


def test_another_takes_its_place_and_it_can_be_removed() -> None:
    team = make_team(make_user(), role=Role.ADMIN)
    other = make_team(make_user())
    for token in (TOKEN, "hf_another"):
        set_huggingface_token(team, token, actor=first_member(team))
    assert open_huggingface_token(team) == "hf_another"
    assert open_huggingface_token(other) is None
    for _ in range(2):
        remove_huggingface_token(team, actor=first_member(team))
    assert open_huggingface_token(team) is None
    assert [event.verb for event in AuditEvent.objects.order_by("pk")] == ["hub_token_set"] * 2 + ["hub_token_removed"]


@pytest.mark.parametrize("token", ["", "  ", "two words", "hf_\n_x", "hf_é", "h" * 501])
def test_what_cannot_be_a_token_is_refused_without_repeating_it(token: str) -> None:
    team = make_team(make_user(), role=Role.ADMIN)
    with pytest.raises(Refusal) as refused:
        set_huggingface_token(team, token, actor=first_member(team))
    assert refused.value.code == "invalid_huggingface_token"
    assert not token.strip() or token not in str(refused.value)


def test_another_secret_key_says_what_to_do(settings: Any) -> None:
    team = make_team(make_user(), role=Role.ADMIN)
    set_huggingface_token(team, TOKEN, actor=first_member(team))
    settings.SECRET_KEY = "another"
    with pytest.raises(Refusal, match="set it again"):
        open_huggingface_token(team)
