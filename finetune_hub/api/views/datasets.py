"""Endpoints for datasets: list, show, upload or import a version."""

from __future__ import annotations

from typing import cast, get_args

from django.conf import settings
from django.db.models import Max, Prefetch
from drf_spectacular.utils import extend_schema
from pydantic import TypeAdapter, ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import FORM_OVERHEAD_BYTES, NewDatasetImport, check_text, read_body, uploaded_file
from finetune_hub.api.lookups import get_row, named
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers.datasets import AddedVersionSerializer, DatasetDetailSerializer, DatasetSerializer
from finetune_hub.api.serializers.jobs import JobDetailSerializer
from finetune_hub.api.views.deletions import ACCEPT_DEPENDENTS, DELETED, deleted
from finetune_hub.api.views.hub_view import NAME_PARAMETER, PAGE_PARAMETERS, HubView, errors
from finetune_hub.api.views.jobs import job_detail
from finetune_hub.api.views.uploads import get_upload
from finetune_hub.catalog.actions import OnError, add_dataset_version
from finetune_hub.catalog.models import Dataset, DatasetVersion
from finetune_hub.catalog.uploads import finished_file, forget_upload
from finetune_hub.jobs.kinds.dataset_import import import_dataset
from finetune_hub.spec.refusal import Refusal

UPLOAD = {
    "multipart/form-data": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "description": "The dataset's name. It is created if it does not exist."},
            "file": {
                "type": "string",
                "format": "binary",
                "description": "JSONL, JSON, CSV, TSV, Parquet or text, optionally compressed with gzip or zstd; "
                "docs/datasets.md lists the row formats.",
            },
            "upload": {"type": "string", "description": "Instead of `file`: the id of a completed upload."},
            "mapping": {
                "type": "string",
                "description": 'Needed if the columns match no known format: JSON such as `{"q": "user", "a": '
                '"assistant"}`.',
            },
            "on_error": {
                "type": "string",
                "enum": ["refuse", "quarantine"],
                "default": "refuse",
                "description": "`quarantine`: import the valid rows and set the others aside.",
            },
        },
    }
}

_mapping = TypeAdapter(dict[str, str])


class Datasets(HubView):
    rights = {"post": Right.ADD_DATASET}
    body_limit_bytes = settings.DATASET_UPLOAD_MAX_BYTES + FORM_OVERHEAD_BYTES
    parser_classes = [MultiPartParser]

    @extend_schema(
        operation_id="list_datasets",
        parameters=[*PAGE_PARAMETERS, NAME_PARAMETER],
        responses={200: page_of(DatasetSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List the team's datasets with facts about each newest version."""
        return self.page(named(Dataset.objects.of_team(team_of(request)).for_list(), request), DatasetSerializer)

    @extend_schema(
        operation_id="push_dataset",
        request=UPLOAD,
        responses={
            201: AddedVersionSerializer,
            200: AddedVersionSerializer,
            **errors(400, 401, 403, 404, 409, 413, 415, 422),
        },
    )
    def post(self, request: Request) -> Response:
        """Upload a file as a dataset's new version. 201: a new version; 200: a version with this content exists."""
        check_text(dict(request.POST.lists()))
        name, team, user = request.POST.get("name", ""), team_of(request), user_of(request)
        upload = get_upload(request, request.POST["upload"]) if request.POST.get("upload") else None
        path, filename = (finished_file(upload, user), upload.file_name) if upload else uploaded_file(request)
        check_text(filename)
        versions = DatasetVersion.objects.filter(dataset__team=team, dataset__name=name)
        newest = versions.aggregate(number=Max("number"))["number"] or 0
        version = add_dataset_version(
            team,
            user,
            name=name,
            file=path,
            filename=filename,
            mapping=mapping_of(request),
            on_error=on_error_of(request),
        )
        if upload:
            forget_upload(upload, user)
        return Response(AddedVersionSerializer(version).data, status=201 if version.number > newest else 200)


class DatasetImports(HubView):
    rights = {"post": Right.IMPORT_DATASET}

    @extend_schema(
        operation_id="import_dataset",
        request=NewDatasetImport,
        responses={201: JobDetailSerializer, **errors(400, 401, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Import a new version of a dataset. When the job has succeeded, its `result` names the version."""
        team, body = team_of(request), read_body(request, NewDatasetImport)
        job = import_dataset(team, user_of(request), **body.model_dump())
        return Response(job_detail(team, job.pk), status=201)


class OneDataset(HubView):
    rights = {"delete": Right.DELETE_DATASET}

    @extend_schema(operation_id="get_dataset", responses={200: DatasetDetailSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Show a dataset with all its versions."""
        versions = Prefetch("versions", DatasetVersion.objects.for_list())
        datasets = Dataset.objects.of_team(team_of(request)).select_related("created_by").prefetch_related(versions)
        return Response(DatasetDetailSerializer(get_row(datasets, pk=id)).data)

    @extend_schema(operation_id="delete_dataset", parameters=[ACCEPT_DEPENDENTS], responses=DELETED)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        """Delete all versions. They can be restored for a time, then the files are deleted. Hashes and lineage stay."""
        return deleted(request, "dataset", id)


def mapping_of(request: Request) -> dict[str, str] | None:
    """Parse the `mapping` of an upload.

    Raises:
        Refusal: `invalid_mapping`.
    """
    text = request.POST.get("mapping")
    if not text:
        return None
    try:
        return _mapping.validate_json(text)
    except ValidationError as error:
        raise Refusal(
            "invalid_mapping",
            "`mapping` is not a JSON object of strings.",
            'Use, for example, {"q": "user", "a": "assistant"}.',
            field="mapping",
        ) from error


def on_error_of(request: Request) -> OnError:
    """Return the `on_error` of an upload.

    Raises:
        Refusal: `invalid_request`.
    """
    value = request.POST.get("on_error", "refuse")
    if value in get_args(OnError):
        return cast(OnError, value)
    raise Refusal(
        "invalid_request",
        f"on_error={value!r} is not a valid choice.",
        "Use `refuse` or `quarantine`.",
        field="on_error",
    )
