"""Endpoint for accounting: what the team, or every team, used in a month."""

from __future__ import annotations

from typing import get_args

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.serializers.operations import UsageSerializer
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.operations.usage import By, Month, check_by, total_of, usage_of


class Usage(HubView):
    @extend_schema(
        operation_id="get_usage",
        parameters=[
            OpenApiParameter("month", str, description="A month in UTC, such as 2026-11; this month by default."),
            OpenApiParameter("by", str, enum=get_args(By), description="What to group lines by; `user` by default."),
            OpenApiParameter("all_teams", bool, description="Include every team; staff only, with the scope `admin`."),
        ],
        responses={200: UsageSerializer, **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """Show how long devices were held and jobs waited in a month, most device time first."""
        query = request.query_params
        month = Month.parse(query["month"]) if "month" in query else Month.now()
        by = check_by(query.get("by", "user"))
        team = None if query.get("all_teams") in {"1", "true"} else team_of(request)
        if team is None:
            require_right(Right.SEE_ALL_USAGE, user_of(request))
        lines = usage_of(month, by, team=team)
        gpu_seconds, cpu_seconds = total_of(lines)
        answer = {"month": str(month), "by": by, "gpu_seconds": gpu_seconds, "cpu_seconds": cpu_seconds, "lines": lines}
        return Response(UsageSerializer(answer).data)
