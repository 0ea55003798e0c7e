"""Endpoints for uploads in parts: begin or resume one, send a part, query its progress."""

from __future__ import annotations

from typing import IO, Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import NewUpload, content_length_bytes, read_body, whole_number
from finetune_hub.api.lookups import get_row
from finetune_hub.api.serializers.datasets import UploadSerializer
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.catalog.models import Upload
from finetune_hub.catalog.uploads import MAX_PART_BYTES, add_part, begin_upload
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words


class RawBytes(BaseParser):
    """Parser for a raw binary body."""

    media_type = "application/octet-stream"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        return stream.read(MAX_PART_BYTES + 1)


class Uploads(HubView):
    rights = {"post": Right.UPLOAD_FILE}

    @extend_schema(
        operation_id="begin_upload",
        request=NewUpload,
        responses={201: UploadSerializer, **errors(400, 401, 403, 413, 415, 422, 429)},
    )
    def post(self, request: Request) -> Response:
        """Begin an upload in parts. The same fingerprint and size return the unfinished upload, to resume it."""
        body = read_body(request, NewUpload)
        upload = begin_upload(
            team_of(request),
            user_of(request),
            file_name=body.file_name,
            size_bytes=body.size_bytes,
            fingerprint=body.fingerprint,
        )
        return Response(UploadSerializer(upload).data, status=201)


class OneUpload(HubView):
    rights = {"put": Right.UPLOAD_FILE}
    body_limit_bytes = MAX_PART_BYTES
    parser_classes = [RawBytes]

    @extend_schema(operation_id="get_upload", responses={200: UploadSerializer, **errors(401, 404)})
    def get(self, request: Request, id: str) -> Response:  # noqa: A002
        """Show the progress of one of your uploads."""
        return Response(UploadSerializer(get_upload(request, id)).data)

    @extend_schema(
        operation_id="send_upload_part",
        parameters=[
            OpenApiParameter("offset", int, required=True, description="The part's position in the file, in bytes.")
        ],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses={200: UploadSerializer, **errors(400, 401, 403, 404, 409, 413, 415, 422)},
    )
    def put(self, request: Request, id: str) -> Response:  # noqa: A002
        """Send the part at `offset`, at most 16 MiB. After the last part, name the upload in `POST /api/datasets`."""
        upload, offset = get_upload(request, id), whole_number(request, "offset", default=0)
        if content_length_bytes(request) > MAX_PART_BYTES:
            raise Refusal(
                "body_too_large",
                f"The part is larger than {size_in_words(MAX_PART_BYTES)}.",
                "Send smaller parts, one after the other.",
                kind="too_large",
            )
        add_part(upload, user_of(request), offset, request.data if isinstance(request.data, bytes) else b"")
        return Response(UploadSerializer(upload).data)


def get_upload(request: Request, upload_id: str) -> Upload:
    """Return the caller's own upload, or raise 404."""
    return get_row(Upload.objects.filter(team=team_of(request), created_by=user_of(request)), pk=upload_id)
