"""Pagination of long lists by page number: `?page=2`."""

from __future__ import annotations

from typing import Any, TypeVar

from django.core.paginator import Page, Paginator
from django.db.models import Model, QuerySet

from finetune_hub.dashboard.access import MemberRequest

ROWS_ON_A_PAGE = 50

Row = TypeVar("Row", bound=Model)


def page_of(request: MemberRequest, rows: QuerySet[Row, Any]) -> Page[Row]:
    """Return the requested page; for an invalid number, the first or last page."""
    return Paginator(rows, ROWS_ON_A_PAGE).get_page(request.GET.get("page"))
