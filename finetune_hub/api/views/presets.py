"""Endpoint for presets: training options for given datasets and base model, with reasons. Nothing is stored."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of
from finetune_hub.api.bodies import PresetQuestion, read_body
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.jobs.planning import presets_for
from finetune_hub.scheduling.presets import PRESETS, PresetsAnswer


class Presets(HubView):
    rights = {"post": Right.PLAN_JOB}

    @extend_schema(
        operation_id="make_presets",
        request=PresetQuestion,
        responses={200: PresetsAnswer, **errors(400, 401, 403, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Suggest trainings for datasets and a base model: one spec per preset, with a reason for each value."""
        body = read_body(request, PresetQuestion)
        names = list(PRESETS) if body.presets is None else body.presets
        presets = presets_for(team_of(request), body.base_model, body.datasets, names)
        return Response(PresetsAnswer(presets=presets).model_dump(mode="json", exclude_none=True))
