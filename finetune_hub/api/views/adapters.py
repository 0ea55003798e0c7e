"""Endpoints for adapters: list and show adapters and versions, download one file or all."""

from __future__ import annotations

from django.db.models import Prefetch, QuerySet
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of
from finetune_hub.api.lookups import get_row, named
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers.adapters import (
    AdapterDetailSerializer,
    AdapterSerializer,
    AdapterVersionDetailSerializer,
)
from finetune_hub.api.views.deletions import ACCEPT_DEPENDENTS, DELETED, deleted
from finetune_hub.api.views.hub_view import (
    FILE_RESPONSES,
    NAME_PARAMETER,
    PAGE_PARAMETERS,
    RANGE_PARAMETERS,
    HubView,
    errors,
)
from finetune_hub.registry.downloads import (
    file_response,
    find_file,
    stream_zip,
    streaming_response,
    zip_name,
    zip_size_bytes,
)
from finetune_hub.registry.models import Adapter, AdapterVersion


class Adapters(HubView):
    @extend_schema(
        operation_id="list_adapters",
        parameters=[*PAGE_PARAMETERS, NAME_PARAMETER],
        responses={200: page_of(AdapterSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List the team's adapters with facts about each newest version."""
        return self.page(named(Adapter.objects.of_team(team_of(request)).for_list(), request), AdapterSerializer)


class OneAdapter(HubView):
    rights = {"delete": Right.DELETE_ADAPTER}

    @extend_schema(operation_id="get_adapter", responses={200: AdapterDetailSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Show an adapter with all its versions."""
        adapters = Adapter.objects.of_team(team_of(request)).select_related("base_model")
        adapters = adapters.prefetch_related(Prefetch("versions", AdapterVersion.objects.alive()))
        return Response(AdapterDetailSerializer(get_row(adapters, pk=id)).data)

    @extend_schema(operation_id="delete_adapter", parameters=[ACCEPT_DEPENDENTS], responses=DELETED)
    def delete(self, request: Request, id: str) -> Response:  # noqa: A002
        """Delete the adapter with all its versions. It can be restored for a time; then its files are deleted."""
        return deleted(request, "adapter", id)


class OneAdapterVersion(HubView):
    rights = {"delete": Right.DELETE_ADAPTER}

    @extend_schema(
        operation_id="get_adapter_version", responses={200: AdapterVersionDetailSerializer, **errors(401, 404)}
    )
    def get(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Show a version: its files with their SHA-256, what it was made from, and its reload check (P5)."""
        versions = AdapterVersion.objects.select_related("adapter__base_model", "publication").prefetch_related(
            "files", "lineage__base_model", "lineage__dataset_version__dataset", "lineage__parent__adapter"
        )
        return Response(AdapterVersionDetailSerializer(get_version(request, id, number, versions)).data)

    @extend_schema(operation_id="delete_adapter_version", parameters=[ACCEPT_DEPENDENTS], responses=DELETED)
    def delete(self, request: Request, id: str, number: int) -> Response:  # noqa: A002
        """Delete the version. It can be restored for a time; then its files are deleted. Its number is not reused."""
        return deleted(request, "adapter", id, number)


class AdapterFiles(HubView):
    @extend_schema(
        operation_id="download_adapter_file",
        parameters=RANGE_PARAMETERS,
        responses={
            **FILE_RESPONSES,
            302: OpenApiResponse(
                description="`Location` is a link to the file in the hub's S3 store, valid for 15 minutes."
            ),
            **errors(401, 404, 416, 422, 503),
        },
    )
    def get(self, request: Request, id: str, number: int, path: str) -> HttpResponseBase:  # noqa: A002
        """Download a file, or a part of it to resume. `ETag` is its SHA-256. A hub on S3 may redirect to the store."""
        version = get_version(request, id, number)
        file, name = find_file(version, path), path.rsplit("/", 1)[-1]
        return file_response(
            request._request,
            f"{version.artifact_prefix}/{path}",
            filename=name,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            may_redirect=True,
        )


class AdapterArchive(HubView):
    @extend_schema(
        operation_id="download_adapter",
        responses={(200, "application/zip"): OpenApiTypes.BINARY, **errors(401, 404, 503)},
    )
    def get(self, request: Request, id: str, number: int) -> HttpResponseBase:  # noqa: A002
        """Download all files of the version as a zip archive."""
        version = get_version(request, id, number)
        return streaming_response(
            request._request,
            lambda: stream_zip(version),
            filename=zip_name(version),
            size_bytes=zip_size_bytes(version),
            content_type="application/zip",
        )


def get_version(
    request: Request, adapter_id: str, number: int, versions: QuerySet[AdapterVersion] | None = None
) -> AdapterVersion:
    """Return the version of the team's adapter, or raise 404."""
    versions = AdapterVersion.objects.select_related("adapter") if versions is None else versions
    return get_row(versions, deletion=None, adapter__team=team_of(request), adapter_id=adapter_id, number=number)
