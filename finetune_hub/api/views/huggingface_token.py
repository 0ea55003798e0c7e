"""Endpoints for the team's Hugging Face token: status, set, remove. It can never be read back."""

from __future__ import annotations

from typing import Any

from django.urls import reverse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.huggingface_tokens import remove_huggingface_token, set_huggingface_token
from finetune_hub.accounts.models import HuggingFaceToken, Team
from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import NewHuggingFaceToken, read_body
from finetune_hub.api.serializers.accounts import HuggingFaceTokenSerializer
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.spec.refusal import Refusal

SHOWN = {200: HuggingFaceTokenSerializer, **errors(401)}
SET = {200: HuggingFaceTokenSerializer, **errors(400, 401, 413, 415, 422)}


class OneHuggingFaceToken(HubView):
    rights = {"put": Right.SET_HUGGINGFACE_TOKEN, "delete": Right.REMOVE_HUGGINGFACE_TOKEN}

    @extend_schema(operation_id="get_huggingface_token", responses=SHOWN)
    def get(self, request: Request) -> Response:
        """Show whether the team has a Hugging Face token and who set it. The token itself is never shown."""
        return Response(facts_of(team_of(request)))

    @extend_schema(operation_id="set_huggingface_token", request=NewHuggingFaceToken, responses=SET)
    def put(self, request: Request) -> Response:
        """Set or replace the token that imports of gated and private models use."""
        body = read_body(request, NewHuggingFaceToken)
        set_huggingface_token(team_of(request), body.token.get_secret_value(), actor=user_of(request))
        return Response(facts_of(team_of(request)))

    @extend_schema(operation_id="remove_huggingface_token", responses=SHOWN)
    def delete(self, request: Request) -> Response:
        """Delete the token."""
        remove_huggingface_token(team_of(request), actor=user_of(request))
        return Response(facts_of(team_of(request)))


class OneHubToken(OneHuggingFaceToken):
    """The same endpoint at its former URL, with its former error code. To be removed after one release."""

    @extend_schema(operation_id="get_hub_token", deprecated=True, responses=SHOWN)
    def get(self, request: Request) -> Response:
        """Deprecated: use `/api/huggingface-token`."""
        return deprecated(super().get(request))

    @extend_schema(operation_id="set_hub_token", deprecated=True, request=NewHuggingFaceToken, responses=SET)
    def put(self, request: Request) -> Response:
        """Deprecated: use `/api/huggingface-token`."""
        try:
            return deprecated(super().put(request))
        except Refusal as refusal:
            if refusal.code == "invalid_huggingface_token":
                raise Refusal("invalid_hub_token", refusal.message, refusal.remedy, field=refusal.field) from refusal
            raise

    @extend_schema(operation_id="remove_hub_token", deprecated=True, responses=SHOWN)
    def delete(self, request: Request) -> Response:
        """Deprecated: use `/api/huggingface-token`."""
        return deprecated(super().delete(request))


def deprecated(response: Response) -> Response:
    """Add headers that name the replacement endpoint."""
    response["Deprecation"] = "true"
    response["Link"] = f'<{reverse("api:huggingface-token")}>; rel="successor-version"'
    return response


def facts_of(team: Team) -> dict[str, Any]:
    token = HuggingFaceToken.objects.filter(team=team).select_related("set_by").first()
    known = {"is_set": token is not None, "set_by": token and token.set_by.username, "set_at": token and token.set_at}
    return dict(HuggingFaceTokenSerializer(known).data)
