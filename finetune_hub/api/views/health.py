"""Endpoints for liveness and for the health report."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.api.authentication import user_of
from finetune_hub.api.serializers.operations import HealthReportSerializer, HealthSerializer
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.operations.health import look_as, worst_of


class Health(HubView):
    authentication_classes = []
    permission_classes = []

    @extend_schema(operation_id="get_health", auth=[], responses={200: HealthSerializer})
    def get(self, request: Request) -> Response:
        """Check that the web process responds. Nothing else is checked."""
        return Response({"status": "ok"})


class HealthReport(HubView):
    @extend_schema(operation_id="get_health_report", responses={200: HealthReportSerializer, **errors(401)})
    def get(self, request: Request) -> Response:
        """Report what is wrong with the hub, worst first. Names machines, but no team's jobs."""
        findings = look_as(user_of(request))
        return Response(HealthReportSerializer({"level": worst_of(findings), "findings": findings}).data)
