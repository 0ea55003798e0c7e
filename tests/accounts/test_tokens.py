"""Tokens: what scopes they may have, how long they live, and what the command prints."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.utils import timezone

from finetune_hub.accounts.actions import create_token, revoke_token
from finetune_hub.accounts.models import ApiToken, AuditEvent, Role, Scope
from finetune_hub.spec.refusal import Refusal
from tests.factories import make_member, make_team

ALLOWED = {Role.VIEWER: ["read"], Role.MEMBER: ["read", "write"], Role.ADMIN: ["read", "write", "admin", "metrics"]}


@pytest.mark.django_db
@pytest.mark.parametrize("role", Role)
def test_a_token_gets_no_scope_beyond_its_users_role(role: Role) -> None:
    team = make_team()
    user = make_member(team, role)
    assert create_token(user, team, name="all")[0].scopes == ALLOWED[role]
    for scope in Scope.values:
        if scope in ALLOWED[role]:
            assert create_token(user, team, name="one", scopes=[scope])[0].scopes == [scope]
        else:
            with pytest.raises(Refusal) as refused:
                create_token(user, team, name="one", scopes=["read", scope])
            assert refused.value.code == "scope_not_allowed"


@pytest.mark.django_db
def test_a_token_hands_out_no_scope_and_no_day_that_it_lacks() -> None:
    team = make_team()
    user = make_member(team, Role.ADMIN)
    maker, _ = create_token(user, team, name="maker", scopes=["read", "write"], lifetime=timedelta(days=7))
    with pytest.raises(Refusal):
        create_token(user, team, name="more", scopes=["admin"], made_with=maker)
    for lifetime in (timedelta(days=90), None):
        made, _ = create_token(user, team, name="made", lifetime=lifetime, made_with=maker)
        assert (made.scopes, made.expires_at) == (["read", "write"], maker.expires_at)
    brief, _ = create_token(user, team, name="brief", lifetime=timedelta(days=1), made_with=maker)
    assert brief.expires_at is not None
    assert brief.expires_at < timezone.now() + timedelta(days=1)


@pytest.mark.django_db
@pytest.mark.parametrize("scopes", [[], ["reed"], ["read", "reed"]])
def test_scopes_that_do_not_exist_are_refused_here_and_by_the_database(scopes: list[str]) -> None:
    team = make_team()
    user = make_member(team, Role.ADMIN)
    with pytest.raises(Refusal) as refused:
        create_token(user, team, name="odd", scopes=scopes)
    assert refused.value.code == "invalid_scopes"
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiToken.objects.create(user=user, team=team, name="odd", scopes=scopes, secret_sha256="0" * 64)


@pytest.mark.django_db
def test_making_and_revoking_are_recorded_without_the_secret() -> None:
    team = make_team()
    user = make_member(team)
    token, secret = create_token(user, team, name="ci")
    for _ in range(2):
        revoke_token(token, actor=user)
    told = [str(event) for event in AuditEvent.objects.seen_by(team)]
    assert told == [f"{user} revoked the token ci", f"{user} created the token ci (read, write)"]
    assert ApiToken.objects.matching(secret) is None


@pytest.mark.django_db
def test_the_command_takes_scopes() -> None:
    printed = StringIO()
    call_command("create_token", "--name", "ci", "--scopes", "read,write", stdout=printed)
    token = ApiToken.objects.matching(printed.getvalue().strip())
    assert token is not None
    assert token.scopes == ["read", "write"]
    with pytest.raises(CommandError, match="Choose at least one of read, write, admin"):
        call_command("create_token", "--scopes", "all")
