"""Look up rows of the token's team by id or name. Rows of other teams are not found."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from django.http import Http404
from rest_framework.request import Request

from finetune_hub.catalog.actions import check_name

Row = TypeVar("Row", bound=Model)


def get_row(rows: QuerySet[Row], **lookup: Any) -> Row:
    """Return the row, or raise 404."""
    row = rows.filter(**lookup).first()
    if row is None:
        raise Http404
    return row


def named(rows: QuerySet[Row], request: Request) -> QuerySet[Row]:
    """Filter the rows by the query parameter `name`; without it, return all.

    Raises:
        Refusal: `invalid_name`.
    """
    name = request.query_params.get("name")
    return rows if name is None else rows.filter(name=check_name(name))
