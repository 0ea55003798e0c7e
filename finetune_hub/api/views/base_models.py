"""Base models: list, import, look at one."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import BaseModelImport, read_body
from finetune_hub.api.lookups import get_row, named
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers import BaseModelDetailSerializer, BaseModelSerializer, ImportedBaseModelSerializer
from finetune_hub.api.views.hub_view import NAME_PARAMETER, PAGE_PARAMETERS, HubView, errors
from finetune_hub.catalog.models import BaseModel
from finetune_hub.jobs.actions import import_base_model


class BaseModels(HubView):
    @extend_schema(
        operation_id="list_base_models",
        parameters=[*PAGE_PARAMETERS, NAME_PARAMETER],
        responses={200: page_of(BaseModelSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """The team's base models."""
        return self.page(named(BaseModel.objects.of_team(team_of(request)), request), BaseModelSerializer)

    @extend_schema(
        operation_id="import_base_model",
        request=BaseModelImport,
        responses={201: ImportedBaseModelSerializer, **errors(400, 401, 403, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Import a base model. It is ready when the job that is named in the answer has succeeded."""
        body = read_body(request, BaseModelImport)
        job = import_base_model(
            team_of(request), user_of(request), name=body.name, source=body.source, license_name=body.license
        )
        answer = {**BaseModelSerializer(job.base_model).data, "job_id": job.pk}
        return Response(answer, status=201)


class OneBaseModel(HubView):
    @extend_schema(operation_id="get_base_model", responses={200: BaseModelDetailSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """One base model with its facts and files."""
        base_models = BaseModel.objects.of_team(team_of(request)).prefetch_related("files")
        return Response(BaseModelDetailSerializer(get_row(base_models, pk=id)).data)
