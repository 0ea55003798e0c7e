"""The service itself: the schema, whether it answers at all, and addresses that do not exist."""

from __future__ import annotations

from typing import Any, cast

from django.http import Http404
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.api.schema import SCHEMA_SETTINGS
from finetune_hub.api.serializers.operations import HealthReportSerializer, HealthSerializer
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.operations.health import look, worst_of


class Health(HubView):
    authentication_classes = []
    permission_classes = []

    @extend_schema(operation_id="get_health", auth=[], responses={200: HealthSerializer})
    def get(self, request: Request) -> Response:
        """Whether the web process answers; it says no more than that."""
        return Response({"status": "ok"})


class HealthReport(HubView):
    @extend_schema(operation_id="get_health_report", responses={200: HealthReportSerializer, **errors(401)})
    def get(self, request: Request) -> Response:
        """What is wrong with the hub, in words, the worst first. It names machines, and no team's jobs."""
        findings = look()
        return Response(HealthReportSerializer({"level": worst_of(findings), "findings": findings}).data)


class Schema(SpectacularAPIView):
    """The OpenAPI schema. It is public: it holds no data, and client generators have no token."""

    authentication_classes = []
    permission_classes = []
    custom_settings = SCHEMA_SETTINGS

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return cast(Response, super().get(request, *args, **kwargs))  # type: ignore[no-untyped-call]


class UnknownAddress(HubView):
    """Below `/api/`, an address that does not exist answers in JSON too."""

    authentication_classes = []
    permission_classes = []

    @extend_schema(exclude=True)
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise Http404
