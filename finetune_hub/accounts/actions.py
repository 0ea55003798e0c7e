"""Actions on accounts: the first owner, members and roles, tokens, and one-time login links.

Each action checks its actor's right (`rights`) and is recorded as an `AuditEvent`.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.contrib.auth.tokens import PasswordResetTokenGenerator
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.db.models.functions import Now
from django.urls import reverse
from django.utils import timezone

from finetune_hub.accounts.models import (
    ApiToken,
    AuditEvent,
    Membership,
    Role,
    Scope,
    Team,
    User,
    Verb,
    new_token_secret,
    sha256_of_secret,
)
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.spec.refusal import Refusal

MAX_USERNAME_LENGTH = 150


class LoginLinkTokens(PasswordResetTokenGenerator):
    """One-time tokens. The user's last login is part of the hash, so the first use invalidates the link."""

    key_salt = "finetune_hub.accounts.login-link"


login_link_tokens = LoginLinkTokens()


def login_link(user: User, *, next_page: str = "/", base_url: str | None = None) -> str:
    """Return a link that signs the user in once, within `PASSWORD_RESET_TIMEOUT`."""
    path = reverse("login-link", args=[user.pk, login_link_tokens.make_token(user)])
    return f"{(base_url or settings.PUBLIC_URL).rstrip('/')}{path}?{urlencode({'next': next_page})}"


@transaction.atomic
def ensure_owner(username: str = "owner", *, team_slug: str = "team") -> Membership:
    """Return the first user, an admin of the first team and staff; create them if missing."""
    user, created = User.objects.get_or_create(username=username, defaults={"is_staff": True, "is_superuser": True})
    if created:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    team, _ = Team.objects.get_or_create(slug=team_slug, defaults={"name": team_slug.capitalize()})
    membership, _ = Membership.objects.get_or_create(user=user, team=team, defaults={"role": Role.ADMIN})
    return membership


# ---- members


@transaction.atomic
def add_member(team: Team, username: str, *, role: Role, actor: User, email: str = "") -> tuple[Membership, str | None]:
    """Add a user to the team. An unknown username creates a user with this e-mail address.

    Returns the membership and, for a user who has never signed in, a one-time login link to hand over. Adding such a
    user again only creates a new link, which invalidates earlier ones.

    Raises:
        Refusal: `forbidden`, `invalid_username`, `invalid_email`, `already_member`, `invited_elsewhere`.
    """
    require_right(Right.ADD_MEMBER, actor, team)
    username = check_username(username)
    if email:
        check_email(email)
    _lock(team)
    user, _ = User.objects.select_for_update(no_key=True).get_or_create(
        username=username, defaults={"email": email, "password": make_password(None)}
    )
    is_invited = user.awaits_first_sign_in()
    if is_invited and user.memberships.exclude(team=team).exists():
        # The other team's admin may have a login link for this account, which would then give access to our team.
        raise Refusal(
            "invited_elsewhere",
            f"{username} was invited by another team and has never signed in.",
            "Add them after their first sign-in, or choose another username.",
            field="username",
            kind="conflict",
        )
    membership, was_added = Membership.objects.get_or_create(team=team, user=user, defaults={"role": role})
    if was_added:
        record(Verb.MEMBER_ADDED, f"{username} as {role}", team=team, actor=actor)
    elif not is_invited:
        raise Refusal(
            "already_member",
            f"{username} is already in the team, as {membership.role}.",
            "Change the role in the list of members.",
            field="username",
            kind="conflict",
        )
    return membership, _fresh_login_link(user) if is_invited else None


@transaction.atomic
def change_role(membership: Membership, role: Role, *, actor: User) -> Membership:
    """Change the member's role. Setting the same role has no effect.

    Raises:
        Refusal: `forbidden`, `last_admin`, `not_found`.
    """
    require_right(Right.CHANGE_ROLE, actor, membership.team)
    membership = _lock_membership(membership)
    before = membership.role
    if role == before:
        return membership
    _keep_an_admin(membership)
    membership.role = role
    membership.save(update_fields=["role"])
    subject = f"{membership.user.username} from {before} to {role}"
    record(Verb.ROLE_CHANGED, subject, team=membership.team, actor=actor)
    return membership


@transaction.atomic
def remove_member(membership: Membership, *, actor: User) -> None:
    """Remove the member from the team. Their tokens of this team are revoked permanently; their jobs stay.

    Raises:
        Refusal: `forbidden`, `last_admin`, `not_found`.
    """
    require_right(Right.REMOVE_MEMBER, actor, membership.team)
    membership = _lock_membership(membership)
    _keep_an_admin(membership)
    user, team = membership.user, membership.team
    membership.delete()
    ApiToken.objects.filter(user=user, team=team, revoked_at=None).update(revoked_at=Now())
    record(Verb.MEMBER_REMOVED, user.username, team=team, actor=actor)


def check_username(username: str) -> str:
    """Return the normalized username.

    Raises:
        Refusal: `invalid_username`.
    """
    normal = User.normalize_username(username)
    try:
        UnicodeUsernameValidator()(normal)
    except ValidationError:
        is_valid = False
    else:  # "." and ".." do not work in a URL.
        is_valid = len(normal) <= MAX_USERNAME_LENGTH and any(map(str.isalnum, normal))
    if not is_valid:
        raise Refusal(
            "invalid_username",
            f"{username!r} is not a valid username.",
            f"Use at most {MAX_USERNAME_LENGTH} letters, digits and `@ . + - _`.",
            field="username",
        )
    return normal


def check_email(email: str) -> None:
    """Check that the e-mail address is valid.

    Raises:
        Refusal: `invalid_email`.
    """
    try:
        validate_email(email)
    except ValidationError as error:
        raise Refusal(
            "invalid_email",
            f"{email!r} is not an e-mail address.",
            "Use the form name@example.org, or leave it out.",
            field="email",
        ) from error


def _fresh_login_link(user: User) -> str:
    """Return a link to set a password. Resetting the unusable password, part of the hash, invalidates earlier links."""
    user.set_unusable_password()
    user.save(update_fields=["password"])
    return login_link(user, next_page=reverse("account"))


def _lock(team: Team) -> None:
    """Serialize changes of the team's members, so that the check for the last admin is reliable."""
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)


def _lock_membership(membership: Membership) -> Membership:
    """Return the current membership, with the team's members locked against changes."""
    _lock(membership.team)
    found = Membership.objects.select_related("user", "team").filter(pk=membership.pk).first()
    if found is None:
        message = f"{membership.user.username} is no longer in the team."
        raise Refusal("not_found", message, "Reload the list of members.", kind="missing")
    return found


def _keep_an_admin(membership: Membership) -> None:
    """Refuse to change the role of the last admin. Call it under the team's lock."""
    if membership.role != Role.ADMIN:
        return
    others = Membership.objects.filter(team=membership.team, role=Role.ADMIN, user__is_active=True)
    if not others.exclude(pk=membership.pk).exists():
        raise Refusal(
            "last_admin",
            f"{membership.user.username} is the last admin of the team.",
            "Make another member an admin first.",
            field="role",
            kind="conflict",
        )


# ---- the password


def set_password(user: User, password: str, *, actor: User) -> None:
    """Set the user's password. All their sessions end.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.SET_PASSWORD, actor, user)
    user.set_password(password)
    user.save(update_fields=["password"])


# ---- tokens


@transaction.atomic
def create_token(
    user: User,
    team: Team,
    *,
    name: str,
    scopes: Collection[str] | None = None,
    lifetime: timedelta | None = timedelta(days=90),
    made_with: ApiToken | None = None,
) -> tuple[ApiToken, str]:
    """Create a token. Returns it and its secret, which is never shown again.

    Args:
        scopes: default: all that the user's role in the team allows.
        lifetime: None: it does not expire.
        made_with: the requesting token, whose scopes and expiry are upper limits.

    Raises:
        Refusal: `forbidden`, `invalid_scopes`, `scope_not_allowed`.
    """
    require_right(Right.CREATE_TOKEN, user, team)
    grantable = Membership.objects.get(user=user, team=team).grantable_scopes()
    if made_with:
        grantable = [scope for scope in grantable if scope in made_with.scopes]
    secret = new_token_secret()
    token = ApiToken.objects.create(
        user=user,
        team=team,
        name=name,
        scopes=grantable if scopes is None else check_scopes(scopes, grantable),
        secret_sha256=sha256_of_secret(secret),
        expires_at=_first_of(
            timezone.now() + lifetime if lifetime else None, made_with.expires_at if made_with else None
        ),
    )
    record(Verb.TOKEN_CREATED, f"{name} ({', '.join(token.scopes)})", team=team, actor=user)
    return token, secret


@transaction.atomic
def revoke_token(token: ApiToken, *, actor: User) -> None:
    """Revoke the token. Repeating it has no effect.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.REVOKE_TOKEN, actor, token.user)
    if ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=Now()):
        record(Verb.TOKEN_REVOKED, token.name, team=token.team, actor=actor)


def check_scopes(scopes: Collection[str], grantable: Collection[Scope]) -> list[Scope]:
    """Return the scopes in their order, each once.

    Raises:
        Refusal: `invalid_scopes`, `scope_not_allowed`.
    """
    if not scopes or not set(scopes) <= set(Scope.values):
        raise Refusal(
            "invalid_scopes",
            f"{', '.join(scopes) or 'Nothing'} is not a valid set of scopes.",
            f"Choose at least one of {', '.join(Scope.values)}.",
            field="scopes",
        )
    if missing := sorted(set(scopes) - set(grantable)):
        raise Refusal(
            "scope_not_allowed",
            f"You cannot grant the scope {', '.join(missing)}, because you do not have it.",
            f"Choose from {', '.join(grantable)}." if grantable else "Ask an admin of the team for another role.",
            field="scopes",
            kind="forbidden",
        )
    return [scope for scope in Scope if scope in scopes]


def _first_of(*moments: datetime | None) -> datetime | None:
    """Return the earliest; None, which means never, only if all are None."""
    return min((moment for moment in moments if moment), default=None)


# ---- the record


def record(verb: Verb, subject: str, *, team: Team | None, actor: User) -> None:
    """Add an audit event in the action's transaction. Events about workers, which all teams share, have no team."""
    AuditEvent.objects.create(verb=verb, subject=subject, team=team, actor=actor)
