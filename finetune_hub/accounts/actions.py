"""The verbs of people: create the first owner, make a token, hand out a one-time login link."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.db import transaction
from django.utils import timezone

from finetune_hub.accounts.models import ApiToken, Membership, Role, Team, User, new_token_secret, sha256_of_secret


class LoginLinkTokens(PasswordResetTokenGenerator):
    """One-time tokens: the user's last login is part of the hash, so the first use spends the link."""

    key_salt = "finetune_hub.accounts.login-link"


login_link_tokens = LoginLinkTokens()


@transaction.atomic
def ensure_owner(username: str = "owner", *, team_slug: str = "team") -> Membership:
    """The first user, an admin of the first team and of the fleet; made when missing, found otherwise."""
    user, created = User.objects.get_or_create(username=username, defaults={"is_staff": True, "is_superuser": True})
    if created:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    team, _ = Team.objects.get_or_create(slug=team_slug, defaults={"name": team_slug.capitalize()})
    membership, _ = Membership.objects.get_or_create(user=user, team=team, defaults={"role": Role.ADMIN})
    return membership


def create_token(
    user: User, team: Team, *, name: str, lifetime: timedelta | None = timedelta(days=90)
) -> tuple[ApiToken, str]:
    """A token and its secret, which is shown now and never again."""
    secret = new_token_secret()
    token = ApiToken.objects.create(
        user=user,
        team=team,
        name=name,
        secret_sha256=sha256_of_secret(secret),
        expires_at=timezone.now() + lifetime if lifetime else None,
    )
    return token, secret


def revoke_token(token: ApiToken) -> None:
    ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
