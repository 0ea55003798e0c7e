"""`/metrics` for Prometheus. Requires the scope `metrics`, as it names teams and workers."""

from __future__ import annotations

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from prometheus_client.exposition import choose_encoder
from rest_framework.request import Request

from finetune_hub.accounts.rights import Right
from finetune_hub.api.views.hub_view import HubView
from finetune_hub.operations.metrics import registry


class Metrics(HubView):
    rights = {"get": Right.READ_METRICS}

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        """Return the metrics in the format that the scraper asks for."""
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return HttpResponse(encode(registry()), content_type=content_type)
