"""`/metrics` for Prometheus. Requires the scope `metrics`: of the token's team, or of all teams for the hub's staff."""

from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from prometheus_client.exposition import choose_encoder
from rest_framework.request import Request

from finetune_hub.accounts.rights import Right, may
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.views.hub_view import HubView
from finetune_hub.operations.metrics import registry


class Metrics(HubView):
    rights = {"get": Right.READ_METRICS}

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """Return the metrics in the format that the scraper asks for."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        team = None if may(Right.READ_ALL_METRICS, user_of(request)) else team_of(request)
        return HttpResponse(encode(registry(team)), content_type=content_type)
