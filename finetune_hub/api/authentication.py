"""Authentication: `Authorization: Bearer fth_…` identifies a user and the team that the token belongs to."""

from __future__ import annotations

from typing import cast

from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from finetune_hub.accounts.models import ApiToken, Membership, Team, User


class TokenAuthentication(BaseAuthentication):
    """Token authentication: sets `request.user`, limited to the token's scopes, and `request.auth`, the token."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if not scheme:
            return None
        token = ApiToken.objects.matching(secret.strip()) if scheme.lower() == "bearer" else None
        if token is None or not Membership.objects.filter(user=token.user, team=token.team).exists():
            raise AuthenticationFailed
        token.record_use()
        token.user.acting_with = token
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="finetune_hub"'


def user_of(request: Request) -> User:
    """Return the user of an authenticated request."""
    return cast(User, request.user)


def token_of(request: Request) -> ApiToken:
    return cast(ApiToken, request.auth)


def team_of(request: Request) -> Team:
    """Return the team of the request's token. The token can read and create rows of this team only."""
    return token_of(request).team


def membership_of(request: Request) -> Membership:
    """Return the user's membership in that team."""
    return Membership.objects.select_related("user").get(user=user_of(request), team=team_of(request))
