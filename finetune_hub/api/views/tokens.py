"""Endpoints for the user's own tokens in the token's team: show this one, list, create, revoke."""

from __future__ import annotations

from datetime import timedelta

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.actions import create_token, revoke_token
from finetune_hub.accounts.models import ApiToken
from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import membership_of, team_of, token_of, user_of
from finetune_hub.api.bodies import NewToken, read_body
from finetune_hub.api.lookups import get_row
from finetune_hub.api.paging import page_of
from finetune_hub.api.permissions import AnyToken
from finetune_hub.api.serializers.accounts import CreatedTokenSerializer, MeSerializer, TokenSerializer
from finetune_hub.api.views.hub_view import PAGE_PARAMETERS, HubView, errors


def tokens_of(request: Request) -> QuerySet[ApiToken]:
    return ApiToken.objects.of(user_of(request)).filter(team=team_of(request))


class Me(HubView):
    permission_classes = [AnyToken]

    @extend_schema(operation_id="get_me", responses={200: MeSerializer, **errors(401)})
    def get(self, request: Request) -> Response:
        """Show the token's user, team, role and scopes. Any valid token can call this."""
        token = token_of(request)
        return Response(
            {
                "user": user_of(request).username,
                "team": team_of(request).slug,
                "role": membership_of(request).role,
                "name": token.name,
                "scopes": token.scopes,
                "expires_at": token.expires_at,
            }
        )


class Tokens(HubView):
    rights = {"post": Right.CREATE_TOKEN}

    @extend_schema(
        operation_id="list_tokens",
        parameters=PAGE_PARAMETERS,
        responses={200: page_of(TokenSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List your tokens of this team that are not revoked. Their secrets are never shown."""
        return self.page(tokens_of(request), TokenSerializer)

    @extend_schema(
        operation_id="create_token",
        request=NewToken,
        responses={201: CreatedTokenSerializer, **errors(400, 401, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Create a token. Its scopes and expiry cannot exceed yours. Its secret is only shown in this response."""
        body = read_body(request, NewToken)
        token, secret = create_token(
            user_of(request),
            team_of(request),
            name=body.name,
            scopes=body.scopes,
            lifetime=timedelta(days=body.days) if body.days else None,
            made_with=token_of(request),
        )
        token.refresh_from_db()
        return Response({**TokenSerializer(token).data, "secret": secret}, status=201)


class OneToken(HubView):
    rights = {"delete": Right.REVOKE_TOKEN}

    @extend_schema(operation_id="revoke_token", responses={204: None, **errors(401, 404)})
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        """Revoke one of your tokens of this team. It stops working immediately."""
        revoke_token(get_row(tokens_of(request), pk=id), actor=user_of(request))
        return Response(status=204)
