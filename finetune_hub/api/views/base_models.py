"""Endpoints for base models: list, import, show, set the chat template."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import NewBaseModelImport, NewChatTemplate, read_body
from finetune_hub.api.lookups import get_row, named
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers.base_models import (
    BaseModelDetailSerializer,
    BaseModelSerializer,
    ImportedBaseModelSerializer,
    KnownTemplatesSerializer,
)
from finetune_hub.api.views.deletions import ACCEPT_DEPENDENTS, DELETED, deleted
from finetune_hub.api.views.hub_view import NAME_PARAMETER, PAGE_PARAMETERS, HubView, errors
from finetune_hub.api.views.uploads import get_upload
from finetune_hub.catalog.chat_templates import fitting_templates, set_chat_template
from finetune_hub.catalog.models import BaseModel
from finetune_hub.catalog.uploads import finished_file, forget_upload
from finetune_hub.data.known_templates import KNOWN_TEMPLATES
from finetune_hub.jobs.kinds.base_model_import import import_base_model, import_uploaded_model
from finetune_hub.jobs.models import Job


class BaseModels(HubView):
    rights = {"post": Right.IMPORT_BASE_MODEL}

    @extend_schema(
        operation_id="list_base_models",
        parameters=[*PAGE_PARAMETERS, NAME_PARAMETER],
        responses={200: page_of(BaseModelSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List the team's base models."""
        return self.page(named(BaseModel.objects.of_team(team_of(request)), request), BaseModelSerializer)

    @extend_schema(
        operation_id="import_base_model",
        request=NewBaseModelImport,
        responses={201: ImportedBaseModelSerializer, **errors(400, 401, 403, 404, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Import a base model. It is ready when the job in `job_id` has succeeded."""
        body = read_body(request, NewBaseModelImport)
        job = import_upload(request, body) if body.upload else import_source(request, body)
        answer = {**BaseModelSerializer(job.over).data, "job_id": job.pk}
        return Response(answer, status=201)


def import_source(request: Request, body: NewBaseModelImport) -> Job:
    return import_base_model(
        team_of(request), user_of(request), name=body.name, source=body.source, license_name=body.license
    )


def import_upload(request: Request, body: NewBaseModelImport) -> Job:
    upload = get_upload(request, body.upload or "")
    job = import_uploaded_model(
        team_of(request),
        user_of(request),
        name=body.name,
        file=finished_file(upload, user_of(request)),
        file_name=upload.file_name,
        license_name=body.license,
    )
    forget_upload(upload, user_of(request))
    return job


class OneBaseModel(HubView):
    rights = {"delete": Right.DELETE_BASE_MODEL}

    @extend_schema(operation_id="get_base_model", responses={200: BaseModelDetailSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Show a base model with its facts and files."""
        base_models = BaseModel.objects.of_team(team_of(request)).prefetch_related("files")
        return Response(BaseModelDetailSerializer(get_row(base_models, pk=id)).data)

    @extend_schema(operation_id="delete_base_model", parameters=[ACCEPT_DEPENDENTS], responses=DELETED)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        """Delete the base model. It can be restored for a time; then its files are deleted. Its name is free at once.

        Its adapters and aliases stop working, which `accept_dependents` must accept.
        """
        return deleted(request, "base_model", id)


class ChatTemplates(HubView):
    rights = {"post": Right.SET_CHAT_TEMPLATE}

    @extend_schema(
        operation_id="list_chat_templates",
        responses={200: KnownTemplatesSerializer, **errors(401, 404, 409, 503)},
    )
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """List the known chat templates. Those whose markers are single tokens of the model come first."""
        fits = fitting_templates(get_row(BaseModel.objects.of_team(team_of(request)).ready(), pk=id))
        known = [
            {"name": name, "summary": KNOWN_TEMPLATES[name].summary, "fits": does_fit}
            for name, does_fit in fits.items()
        ]
        return Response(KnownTemplatesSerializer({"data": known}).data)

    @extend_schema(
        operation_id="set_chat_template",
        request=NewChatTemplate,
        responses={200: BaseModelDetailSerializer, **errors(400, 401, 404, 409, 413, 415, 422, 503)},
    )
    def post(self, request: Request, id: str) -> Response:  # noqa: A002
        """Set the chat template of a base model that has none. This changes its `revision`."""
        base_model = get_row(BaseModel.objects.of_team(team_of(request)), pk=id)
        body = read_body(request, NewChatTemplate)
        base_model = set_chat_template(base_model, user_of(request), name=body.template, source=body.source)
        return Response(BaseModelDetailSerializer(base_model).data)
