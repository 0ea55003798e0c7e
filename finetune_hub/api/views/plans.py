"""Endpoint for plans: whether and where a training fits, how long it takes, and alternatives. Nothing is stored."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of
from finetune_hub.api.bodies import read_body
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.jobs.planning import plan_training
from finetune_hub.scheduling.plan_answer import PlanAnswer
from finetune_hub.spec.training import TrainingSpec


class Plans(HubView):
    rights = {"post": Right.PLAN_JOB}

    @extend_schema(
        operation_id="plan_job",
        request=TrainingSpec,
        responses={200: PlanAnswer, **errors(400, 401, 403, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Plan a training without submitting it: memory by part, time and alternatives per kind of device."""
        spec = read_body(request, TrainingSpec, code="invalid_spec")
        return Response(plan_training(team_of(request), spec).model_dump(mode="json"))
