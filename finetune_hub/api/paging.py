"""Cursor pagination: `{"data": [...], "next": cursor or null}`. Rows added between pages cause no gap or repeat."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from django.core.exceptions import ValidationError
from drf_spectacular.utils import inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from finetune_hub.spec.refusal import Refusal


class NewestFirst(CursorPagination):
    """Pagination by a time that never changes, newest first. `?limit=` up to 200."""

    page_size = 50
    max_page_size = 200
    page_size_query_param = "limit"
    page_size_query_description = "Rows per page, 1 to 200."
    cursor_query_description = "The `next` of the previous page; leave it out for the first page."

    def __init__(self, by: str = "created_at") -> None:
        self.ordering = (f"-{by}", "-pk")

    def paginate_queryset(self, queryset: Any, request: Request, view: APIView | None = None) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (NotFound, ValidationError, ValueError) as error:
            raise Refusal(
                "invalid_cursor",
                "The cursor does not come from this list.",
                "Send the `next` of the previous page unchanged, or no cursor for the first page.",
                field="cursor",
            ) from error

    def get_paginated_response(self, data: Any) -> Response:
        link = self.get_next_link()
        cursor = parse_qs(urlsplit(link).query)[self.cursor_query_param][0] if link else None
        return Response({"data": data, "next": cursor})


def page_of(row: type[serializers.BaseSerializer[Any]]) -> serializers.Serializer[Any]:
    """Return the schema of a page of such rows."""
    cursor = serializers.CharField(allow_null=True, help_text="Send it as `cursor` for the next page; null: last page.")
    return _envelope(row, cursor)


def part_of(row: type[serializers.BaseSerializer[Any]]) -> serializers.Serializer[Any]:
    """Return the schema of a part of a growing list of such rows."""
    return _envelope(row, serializers.IntegerField(allow_null=True, help_text="Send it as `after`; null: no more yet."))


def _envelope(row: type[serializers.BaseSerializer[Any]], following: Any) -> serializers.Serializer[Any]:
    name = row.__name__.removesuffix("Serializer") + "Page"
    return inline_serializer(name, {"data": row(many=True), "next": following})
