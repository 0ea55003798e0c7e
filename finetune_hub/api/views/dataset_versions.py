"""Endpoints for one dataset version: its rows, their tokens, its files; compare, split, delete."""

from __future__ import annotations

from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import Split, check_text, read_body, whole_number
from finetune_hub.api.lookups import get_row
from finetune_hub.api.serializers.datasets import (
    DatasetVersionDetailSerializer,
    FoundRowsSerializer,
    RowPreviewSerializer,
    SplitPartsSerializer,
)
from finetune_hub.api.views.deletions import ACCEPT_DEPENDENTS, deleted
from finetune_hub.api.views.hub_view import FILE_RESPONSES, RANGE_PARAMETERS, HubView, errors
from finetune_hub.catalog.choices import find_base_model, find_dataset_version
from finetune_hub.catalog.compare import compare_versions
from finetune_hub.catalog.dataset_downloads import find_download
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.catalog.preview import preview_row, token_statistics
from finetune_hub.catalog.search import find_rows
from finetune_hub.catalog.split import split_version
from finetune_hub.data.comparison import Comparison
from finetune_hub.data.token_statistics import TokenStatistics
from finetune_hub.registry.downloads import file_response
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice, TrainingOptions

DEFAULT_MAX_SEQ_LEN = TrainingOptions().max_seq_len
LOOK_PARAMETERS = [
    OpenApiParameter("base_model", str, required=True, description="The base model's name."),
    OpenApiParameter("max_seq_len", int, description="Tokens to keep per row. The default is that of a training."),
]


class OneDatasetVersion(HubView):
    rights = {"delete": Right.DELETE_DATASET}

    @extend_schema(
        operation_id="get_dataset_version", responses={200: DatasetVersionDetailSerializer, **errors(401, 404)}
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Show a version: the detected format and the reason for it, and the first rows."""
        return Response(DatasetVersionDetailSerializer(get_version(request, id, number)).data)

    @extend_schema(
        operation_id="delete_dataset_version",
        parameters=[ACCEPT_DEPENDENTS],
        responses={200: DatasetVersionDetailSerializer, **errors(401, 403, 404, 409, 422, 503)},
    )
    def delete(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Delete the version's rows and files. They can be restored for a time. Its hash and lineage stay."""
        deleted(request, "dataset", id, number)
        version = get_version(request, id, number)
        return Response(DatasetVersionDetailSerializer(version).data)


class DatasetRows(HubView):
    @extend_schema(
        operation_id="list_dataset_rows",
        parameters=[
            OpenApiParameter("q", str, description="Only rows that contain these words, ignoring case."),
            OpenApiParameter("after", int, description="Only rows after this number."),
        ],
        responses={200: FoundRowsSerializer, **errors(401, 404, 410, 422, 503)},
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """List or search rows, twenty at a time. A slow search stops early with a `next` to continue from."""
        version, words = get_version(request, id, number), request.query_params.get("q", "")
        check_text(words)
        return Response(
            FoundRowsSerializer(find_rows(version, words, after=whole_number(request, "after", default=0))).data
        )


class DatasetComparison(HubView):
    @extend_schema(
        operation_id="compare_dataset_versions",
        parameters=[
            OpenApiParameter(
                "with", str, required=True, description="The version to compare with: `NAME` or `NAME:VERSION`."
            )
        ],
        responses={200: Comparison, **errors(401, 404, 410, 422, 503)},
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Compare with another version: rows added, removed and changed, and prompts in both."""
        version = get_version(request, id, number)
        other = find_dataset_version(team_of(request), reference_of(request.query_params.get("with", "")))
        return Response(compare_versions(version, other).model_dump())


class DatasetSplit(HubView):
    rights = {"post": Right.SPLIT_DATASET}

    @extend_schema(
        operation_id="split_dataset_version",
        request=Split,
        responses={201: SplitPartsSerializer, **errors(400, 401, 403, 404, 410, 413, 415, 422, 503)},
    )
    def post(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Split into new versions of `NAME-train` and `NAME-held-out`, by a seed, with no prompt in both."""
        version, body = get_version(request, id, number), read_body(request, Split)
        train, held_out = split_version(version, user_of(request), fraction=body.fraction, seed=body.seed)
        return Response(SplitPartsSerializer({"train": train, "held_out": held_out}).data, status=201)


class DatasetPreview(HubView):
    @extend_schema(
        operation_id="preview_dataset_row",
        parameters=[
            *LOOK_PARAMETERS,
            OpenApiParameter("row", int, description="The row's number, starting at 1 (default)."),
        ],
        responses={200: RowPreviewSerializer, **errors(401, 404, 409, 410, 422, 503)},
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Show a row token by token, with a base model's chat template and tokenizer."""
        version, base_model, max_seq_len = get_version(request, id, number), *what_looks(request)
        preview = preview_row(version, base_model, whole_number(request, "row", default=1), max_seq_len)
        return Response(RowPreviewSerializer(preview).data)


class DatasetTokens(HubView):
    @extend_schema(
        operation_id="measure_dataset",
        parameters=LOOK_PARAMETERS,
        responses={200: TokenStatistics, **errors(401, 404, 409, 410, 422, 503)},
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Measure the rows' lengths for a base model, what is truncated, and which rows have no supervised token."""
        version, base_model, max_seq_len = get_version(request, id, number), *what_looks(request)
        return Response(token_statistics(version, base_model, max_seq_len).model_dump())


class DatasetDownload(HubView):
    @extend_schema(
        operation_id="download_dataset_file",
        parameters=RANGE_PARAMETERS,
        responses={**FILE_RESPONSES, **errors(401, 404, 410, 416, 503)},
    )
    def get(self, request: Request, id: str, number: int, name: str) -> HttpResponseBase:  # noqa: A002
        """Download `rows.jsonl` (the training rows), `original` (the upload) or `quarantine.jsonl` (rejected rows)."""
        file = find_download(get_version(request, id, number), name)
        return file_response(
            request._request, file.key, filename=file.name, size_bytes=file.size_bytes, sha256=file.sha256
        )


def get_version(request: Request, dataset_id: str, number: int) -> DatasetVersion:
    """Return the version of the team's dataset, or raise 404."""
    versions = DatasetVersion.objects.select_related("dataset__team", "parent__dataset")
    return get_row(versions, dataset__team=team_of(request), dataset_id=dataset_id, number=number)


def what_looks(request: Request) -> tuple[BaseModel, int]:
    """Return the query's base model and `max_seq_len`.

    Raises:
        Refusal: `unknown_base_model`, `base_model_not_ready`, `invalid_request`.
    """
    name = request.query_params.get("base_model", "")
    return find_base_model(team_of(request), name), whole_number(request, "max_seq_len", default=DEFAULT_MAX_SEQ_LEN)


def reference_of(text: str) -> DatasetChoice:
    """Parse `NAME` or `NAME:VERSION`.

    Raises:
        Refusal: `invalid_request`.
    """
    name, _, number = text.partition(":")
    try:
        return DatasetChoice.model_validate({"name": name, "version": int(number) if number else None})
    except ValueError as error:
        raise Refusal(
            "invalid_request", f"with={text!r} is not a dataset reference.", "Use NAME or NAME:VERSION.", field="with"
        ) from error
