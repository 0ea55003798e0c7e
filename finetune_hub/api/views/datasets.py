"""Datasets: list, upload a version, look at one."""

from __future__ import annotations

from django.db.models import Max
from drf_spectacular.utils import extend_schema
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import check_text, uploaded_file
from finetune_hub.api.lookups import get_row, named
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers import AddedVersionSerializer, DatasetDetailSerializer, DatasetSerializer
from finetune_hub.api.views.hub_view import NAME_PARAMETER, PAGE_PARAMETERS, HubView, errors
from finetune_hub.catalog.actions import add_dataset_version
from finetune_hub.catalog.models import Dataset, DatasetVersion

UPLOAD = {
    "multipart/form-data": {
        "type": "object",
        "required": ["name", "file"],
        "properties": {
            "name": {"type": "string", "description": "The dataset; made when it is new."},
            "file": {"type": "string", "format": "binary", "description": "JSONL, one conversation a line."},
        },
    }
}


class Datasets(HubView):
    parser_classes = [MultiPartParser]

    @extend_schema(
        operation_id="list_datasets",
        parameters=[*PAGE_PARAMETERS, NAME_PARAMETER],
        responses={200: page_of(DatasetSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """The team's datasets, each with its newest version's facts."""
        return self.page(named(Dataset.objects.of_team(team_of(request)).for_list(), request), DatasetSerializer)

    @extend_schema(
        operation_id="push_dataset",
        request=UPLOAD,
        responses={
            201: AddedVersionSerializer,
            200: AddedVersionSerializer,
            **errors(400, 401, 403, 413, 415, 422),
        },
    )
    def post(self, request: Request) -> Response:
        """Upload a file as the newest version of a dataset. 201: a new version; 200: the content was known."""
        path, filename = uploaded_file(request)
        name, team = request.POST.get("name", ""), team_of(request)
        check_text([name, filename])
        versions = DatasetVersion.objects.filter(dataset__team=team, dataset__name=name)
        newest = versions.aggregate(number=Max("number"))["number"] or 0
        version = add_dataset_version(team, user_of(request), name=name, file=path, filename=filename)
        return Response(AddedVersionSerializer(version).data, status=201 if version.number > newest else 200)


class OneDataset(HubView):
    @extend_schema(operation_id="get_dataset", responses={200: DatasetDetailSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """One dataset with all its versions."""
        datasets = Dataset.objects.of_team(team_of(request)).select_related("created_by").prefetch_related("versions")
        return Response(DatasetDetailSerializer(get_row(datasets, pk=id)).data)
