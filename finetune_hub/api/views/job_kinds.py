"""Endpoints for job kinds that declare their options: list them, submit a job of one."""

from __future__ import annotations

from functools import partial

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.bodies import read_body
from finetune_hub.api.serializers.jobs import JobDetailSerializer
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.api.views.jobs import IDEMPOTENCY_KEY, STEERED, submitted_once
from finetune_hub.jobs.kinds.kind import KINDS


class OfferedKindSerializer(serializers.Serializer[None]):
    """A job kind that can be submitted by name."""

    name = serializers.CharField()
    title = serializers.CharField(help_text="The name shown on the dashboard.")
    options = serializers.DictField(help_text="JSON schema of the body of `submit_job_of_kind`.")


class JobKinds(HubView):
    @extend_schema(operation_id="list_job_kinds", responses={200: OfferedKindSerializer(many=True), **errors(401)})
    def get(self, request: Request) -> Response:
        """List the job kinds that declare their options. Trainings and imports have their own endpoints."""
        return Response(
            [
                {"name": kind.name, "title": kind.label, "options": kind.options.model_json_schema()}
                for kind in KINDS.values()
                if kind.options is not None
            ]
        )


class OneJobKind(HubView):
    rights = {"post": Right.SUBMIT_JOB}

    @extend_schema(
        operation_id="submit_job_of_kind",
        request={
            "application/json": {
                "type": "object",
                "description": "Must match the `options` schema of `list_job_kinds`.",
            }
        },
        parameters=[IDEMPOTENCY_KEY],
        responses={**STEERED, 201: JobDetailSerializer},
    )
    def post(self, request: Request, name: str) -> Response:
        """Submit a job of this kind. 201: a new job; 200: the earlier job with this idempotency key."""
        kind = KINDS.get(name)
        if kind is None or kind.options is None:
            raise Http404
        options = read_body(request, kind.options)
        return submitted_once(request, partial(kind.submit, options=options))
