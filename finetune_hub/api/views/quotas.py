"""Endpoints for quotas: how much of the fleet each team may use, and how much it uses."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema, inline_serializer
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import user_of
from finetune_hub.api.bodies import Quota, read_body
from finetune_hub.api.lookups import get_row
from finetune_hub.api.serializers.fleet import QuotaSerializer
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.fleet.actions import set_quota
from finetune_hub.jobs.team_use import uses_shown_to


class Quotas(HubView):
    @extend_schema(
        operation_id="list_quotas",
        responses={200: inline_serializer("Quotas", {"data": QuotaSerializer(many=True)}), **errors(401)},
    )
    def get(self, request: Request) -> Response:
        """List the quotas and current use of the user's teams, or of all teams for the hub's staff."""
        return Response({"data": [QuotaSerializer(use).data for use in uses_shown_to(user_of(request))]})


class OneQuota(HubView):
    rights = {"put": Right.SET_QUOTA}

    @extend_schema(
        operation_id="set_quota",
        request=Quota,
        responses={200: QuotaSerializer, **errors(400, 401, 404, 413, 415, 422)},
    )
    def put(self, request: Request, slug: str) -> Response:
        """Set the team's quota, from the next scheduling pass on. Running jobs continue."""
        team, body = get_row(Team.objects.all(), slug=slug), read_body(request, Quota)
        set_quota(team, **body.model_dump(), actor=user_of(request))
        use = next(use for use in uses_shown_to(user_of(request)) if use.team == team)
        return Response(QuotaSerializer(use).data)
