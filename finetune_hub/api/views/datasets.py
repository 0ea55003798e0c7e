"""Datasets: list, upload a version, look at one, preview its rows, download its files."""

from __future__ import annotations

from typing import cast, get_args

from django.db.models import Max, Prefetch
from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import TypeAdapter, ValidationError
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import check_text, uploaded_file, whole_number
from finetune_hub.api.lookups import get_row, named
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers import (
    AddedVersionSerializer,
    DatasetDetailSerializer,
    DatasetSerializer,
    DatasetVersionDetailSerializer,
    RowPreviewSerializer,
)
from finetune_hub.api.views.hub_view import NAME_PARAMETER, PAGE_PARAMETERS, HubView, errors
from finetune_hub.catalog.actions import OnError, add_dataset_version
from finetune_hub.catalog.downloads import find_download
from finetune_hub.catalog.models import BaseModel, Dataset, DatasetVersion
from finetune_hub.catalog.preview import preview_row, token_statistics
from finetune_hub.data.token_statistics import TokenStatistics
from finetune_hub.jobs.actions import find_base_model
from finetune_hub.registry.downloads import FileChunks, streaming_response
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingOptions

UPLOAD = {
    "multipart/form-data": {
        "type": "object",
        "required": ["name", "file"],
        "properties": {
            "name": {"type": "string", "description": "The dataset; made when it is new."},
            "file": {
                "type": "string",
                "format": "binary",
                "description": "JSONL, JSON, CSV, TSV, Parquet or text, also packed with gzip or zstd; "
                "docs/datasets.md has the formats of rows.",
            },
            "mapping": {
                "type": "string",
                "description": 'Where the columns belong to no known format: JSON such as `{"q": "user", "a": '
                '"assistant"}`.',
            },
            "on_error": {
                "type": "string",
                "enum": ["refuse", "quarantine"],
                "default": "refuse",
                "description": "`quarantine`: go on with the good rows, and set the others aside.",
            },
        },
    }
}

DEFAULT_MAX_SEQ_LEN = TrainingOptions().max_seq_len
LOOK_PARAMETERS = [
    OpenApiParameter("base_model", str, required=True, description="Its name."),
    OpenApiParameter("max_seq_len", int, description="Tokens of a row that are kept; the training's own default."),
]
_mapping = TypeAdapter(dict[str, str])


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
        version = add_dataset_version(
            team,
            user_of(request),
            name=name,
            file=path,
            filename=filename,
            mapping=mapping_of(request),
            on_error=on_error_of(request),
        )
        return Response(AddedVersionSerializer(version).data, status=201 if version.number > newest else 200)


class OneDataset(HubView):
    @extend_schema(operation_id="get_dataset", responses={200: DatasetDetailSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """One dataset with all its versions."""
        versions = Prefetch("versions", DatasetVersion.objects.for_list())
        datasets = Dataset.objects.of_team(team_of(request)).select_related("created_by").prefetch_related(versions)
        return Response(DatasetDetailSerializer(get_row(datasets, pk=id)).data)


class OneDatasetVersion(HubView):
    @extend_schema(
        operation_id="get_dataset_version", responses={200: DatasetVersionDetailSerializer, **errors(401, 404)}
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """One version: what the upload was taken for and why, and its first rows."""
        return Response(DatasetVersionDetailSerializer(get_version(request, id, number)).data)


class DatasetPreview(HubView):
    @extend_schema(
        operation_id="preview_dataset_row",
        parameters=[*LOOK_PARAMETERS, OpenApiParameter("row", int, description="Counted from 1, the default.")],
        responses={200: RowPreviewSerializer, **errors(401, 404, 409, 422, 503)},
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """One row through a base model's own chat template and tokenizer, token by token."""
        version, base_model, max_seq_len = get_version(request, id, number), *what_looks(request)
        preview = preview_row(version, base_model, whole_number(request, "row", default=1), max_seq_len)
        return Response(RowPreviewSerializer(preview).data)


class DatasetTokens(HubView):
    @extend_schema(
        operation_id="measure_dataset",
        parameters=LOOK_PARAMETERS,
        responses={200: TokenStatistics, **errors(401, 404, 409, 422, 503)},
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """How long the rows are for a base model, what `max_seq_len` cuts off, and which rows would teach nothing."""
        version, base_model, max_seq_len = get_version(request, id, number), *what_looks(request)
        return Response(token_statistics(version, base_model, max_seq_len).model_dump())


class DatasetDownload(HubView):
    @extend_schema(
        operation_id="download_dataset_file",
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY, **errors(401, 404, 503)},
    )
    def get(self, request: Request, id: str, number: int, name: str) -> StreamingHttpResponse:  # noqa: A002
        """`rows.jsonl`: what is trained on. `original`: the upload as it came. `quarantine.jsonl`: rows set aside."""
        file = find_download(get_version(request, id, number), name)
        return streaming_response(
            request._request, FileChunks(file.open()), filename=file.name, size_bytes=file.size_bytes
        )


def get_version(request: Request, dataset_id: str, number: int) -> DatasetVersion:
    """The version of the team's dataset, or 404."""
    versions = DatasetVersion.objects.select_related("dataset")
    return get_row(versions, dataset__team=team_of(request), dataset_id=dataset_id, number=number)


def what_looks(request: Request) -> tuple[BaseModel, int]:
    """The base model and `max_seq_len` that the query names.

    Raises:
        Refusal: `unknown_base_model`, `base_model_not_ready`, `invalid_request`.
    """
    name = request.query_params.get("base_model", "")
    return find_base_model(team_of(request), name), whole_number(request, "max_seq_len", default=DEFAULT_MAX_SEQ_LEN)


def mapping_of(request: Request) -> dict[str, str] | None:
    """The `mapping` of an upload.

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
            "`mapping` is no JSON object of texts.",
            'Write for example {"q": "user", "a": "assistant"}.',
            field="mapping",
        ) from error


def on_error_of(request: Request) -> OnError:
    """The `on_error` of an upload.

    Raises:
        Refusal: `invalid_request`.
    """
    value = request.POST.get("on_error", "refuse")
    if value in get_args(OnError):
        return cast(OnError, value)
    raise Refusal(
        "invalid_request", f"on_error={value!r} is no choice.", "Write `refuse` or `quarantine`.", field="on_error"
    )
