"""The kinds of rows that the hub stores: see `data.rows`."""

from __future__ import annotations

from enum import StrEnum


class RowKind(StrEnum):
    CHAT = "chat"
    COMPLETION = "completion"
    TEXT = "text"
    PREFERENCE = "preference"
    LABELLED = "labelled"
