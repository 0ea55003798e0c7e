"""The team's token of the Hugging Face hub: whether there is one, set it, remove it. Nobody reads it back."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.hub_tokens import remove_hub_token, set_hub_token
from finetune_hub.accounts.models import HubToken, Team
from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import NewHubToken, read_body
from finetune_hub.api.serializers.accounts import HubTokenSerializer
from finetune_hub.api.views.hub_view import HubView, errors


class OneHubToken(HubView):
    rights = {"put": Right.SET_HUB_TOKEN, "delete": Right.REMOVE_HUB_TOKEN}

    @extend_schema(operation_id="get_hub_token", responses={200: HubTokenSerializer, **errors(401)})
    def get(self, request: Request) -> Response:
        """Whether the team has a hub token, and who set it. The token itself is never shown."""
        return Response(facts_of(team_of(request)))

    @extend_schema(
        operation_id="set_hub_token",
        request=NewHubToken,
        responses={200: HubTokenSerializer, **errors(400, 401, 413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """Set the token that imports of gated and private models use, in place of the one before."""
        body = read_body(request, NewHubToken)
        set_hub_token(team_of(request), body.token.get_secret_value(), actor=user_of(request))
        return Response(facts_of(team_of(request)))

    @extend_schema(operation_id="remove_hub_token", responses={200: HubTokenSerializer, **errors(401)})
    def delete(self, request: Request) -> Response:
        """Forget the token."""
        remove_hub_token(team_of(request), actor=user_of(request))
        return Response(facts_of(team_of(request)))


def facts_of(team: Team) -> dict[str, Any]:
    token = HubToken.objects.filter(team=team).select_related("set_by").first()
    known = {"is_set": token is not None, "set_by": token and token.set_by.username, "set_at": token and token.set_at}
    return dict(HubTokenSerializer(known).data)
