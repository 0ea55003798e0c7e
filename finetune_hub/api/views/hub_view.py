"""Base of all endpoints: permission check, request id, JSON whatever `Accept` says, documented errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from uuid import uuid4

from django.db.models import QuerySet
from django.http import HttpRequest
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from finetune_hub.accounts.rights import Right
from finetune_hub.api.bodies import MAX_JSON_BYTES, refuse_nul
from finetune_hub.api.paging import NewestFirst
from finetune_hub.api.parsers import ShallowJSONParser
from finetune_hub.api.permissions import HasRight
from finetune_hub.api.serializers.errors import ErrorBodySerializer

PAGE_PARAMETERS = [
    OpenApiParameter("cursor", str, description=NewestFirst.cursor_query_description),
    OpenApiParameter("limit", int, description=NewestFirst.page_size_query_description),
]
NAME_PARAMETER = OpenApiParameter("name", str, description="Only rows with exactly this name.")


RANGE_PARAMETERS = [
    OpenApiParameter(
        "Range", str, OpenApiParameter.HEADER, description="`bytes=0-99`, `bytes=100-` or `bytes=-100`: a part."
    ),
    OpenApiParameter("If-Range", str, OpenApiParameter.HEADER, description="An `ETag`: the part is of this file only."),
    OpenApiParameter("If-None-Match", str, OpenApiParameter.HEADER, description="An `ETag`: answer 304 if it is this."),
]
FILE_RESPONSES: dict[Any, Any] = {
    (200, "application/octet-stream"): OpenApiTypes.BINARY,
    (206, "application/octet-stream"): OpenApiTypes.BINARY,
    304: OpenApiResponse(description="The client already has this file."),
}


def errors(*statuses: int) -> dict[int, OpenApiResponse]:
    """Return the schema's entries for an endpoint's error responses.

    An endpoint that requires a token (401) also requires a scope (403) and limits the request rate (429).
    """
    always = (403, 429) if 401 in statuses else ()
    return dict.fromkeys(
        sorted({*statuses, *always}), OpenApiResponse(ErrorBodySerializer, description="Refused; see `error.code`.")
    )


class AlwaysJson(BaseContentNegotiation):
    """Content negotiation that always answers JSON, even if `Accept` asks for something else."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        kind = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == kind), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        json = next(iter(renderers))
        return json, str(json.media_type)


class HubView(APIView):
    """Base class of an endpoint. It acts in the token's team."""

    rights: ClassVar[Mapping[str, Right]] = {}
    """The right that each method requires, checked before the body is read."""
    body_limit_bytes: ClassVar[int] = MAX_JSON_BYTES
    """The largest request body that is read (`body_gate`)."""
    permission_classes = [HasRight]
    parser_classes = [ShallowJSONParser]
    content_negotiation_class = AlwaysJson

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        self.request_id = uuid4().hex
        refuse_nul(request)
        super().initial(request, *args, **kwargs)

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        response = super().finalize_response(request, response, *args, **kwargs)
        response["x-request-id"] = self.request_id
        return response

    def refuse_before_body(self, request: HttpRequest, **kwargs: Any) -> Response | None:
        """Return the refusal of a request whose body was not read yet; None if the body may be read."""
        self.setup(request, **kwargs)
        self.headers = self.default_response_headers
        self.request = self.initialize_request(request, **kwargs)
        try:
            self.initial(self.request, **kwargs)
            if not hasattr(self, str(request.method).lower()):
                self.http_method_not_allowed(self.request)
        except Exception as error:  # noqa: BLE001  # Like `dispatch`: the handler renders every error.
            response = self.finalize_response(self.request, self.handle_exception(error), **kwargs)
            response.render()
            return response
        return None

    def page(self, rows: QuerySet[Any], serializer: type[BaseSerializer[Any]], *, by: str = "created_at") -> Response:
        """Return one page of the rows, newest first by the named time field."""
        paginator = NewestFirst(by)
        page = paginator.paginate_queryset(rows, self.request, view=self)
        return paginator.get_paginated_response(serializer(page, many=True).data)
