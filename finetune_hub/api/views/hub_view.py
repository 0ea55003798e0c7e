"""What every endpoint shares: the role check, a request id, JSON whatever `Accept` says, documented errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from uuid import uuid4

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from finetune_hub.accounts.rights import Right
from finetune_hub.api.bodies import refuse_nul
from finetune_hub.api.paging import NewestFirst
from finetune_hub.api.parsers import ShallowJSONParser
from finetune_hub.api.permissions import HasRight
from finetune_hub.api.serializers.errors import ErrorBodySerializer

PAGE_PARAMETERS = [
    OpenApiParameter("cursor", str, description=NewestFirst.cursor_query_description),
    OpenApiParameter("limit", int, description=NewestFirst.page_size_query_description),
]
NAME_PARAMETER = OpenApiParameter("name", str, description="Only those with exactly this name.")


def errors(*statuses: int) -> dict[int, OpenApiResponse]:
    """The schema's entries for the error answers of an endpoint.

    What needs a token (401) needs its scope too (403), and is refused to who asks too often (429).
    """
    always = (403, 429) if 401 in statuses else ()
    return dict.fromkeys(
        sorted({*statuses, *always}), OpenApiResponse(ErrorBodySerializer, description="Refused; see `error.code`.")
    )


class AlwaysJson(BaseContentNegotiation):
    """The API speaks JSON; an `Accept` that asks for something else is no reason to refuse."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        kind = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == kind), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        json = next(iter(renderers))
        return json, str(json.media_type)


class HubView(APIView):
    """An endpoint of the team that the token acts in."""

    rights: ClassVar[Mapping[str, Right]] = {}
    """By method, the right that is asked for before the body is read."""
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

    def page(self, rows: QuerySet[Any], serializer: type[BaseSerializer[Any]], *, by: str = "created_at") -> Response:
        """One page of the rows, newest first by the named time."""
        paginator = NewestFirst(by)
        page = paginator.paginate_queryset(rows, self.request, view=self)
        return paginator.get_paginated_response(serializer(page, many=True).data)
