"""Search in a dataset version's rows, page by page."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import orjson

from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.catalog.preview import kept_rows
from finetune_hub.catalog.tombstones import require_alive
from finetune_hub.data.report import ROWS_PER_OFFSET

SEARCH_SECONDS = 2.0
PAGE_ROWS = 20


@dataclass(frozen=True, slots=True)
class FoundRow:
    number: int
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class FoundRows:
    """A page of rows. Continue after row `next`; None: no more rows."""

    rows: list[FoundRow]
    next: int | None


def find_rows(version: DatasetVersion, words: str = "", *, after: int = 0, limit: int = PAGE_ROWS) -> FoundRows:
    """Return rows after this number that contain the words, ignoring case. Stops after two seconds.

    Raises:
        Refusal: `dataset_deleted`.
        ArtifactError: the store does not have the file.
    """
    require_alive(version)
    wanted = orjson.dumps(words.lower())[1:-1].decode()  # The words as escaped in JSON, without quotes.
    rows, deadline = kept_rows(version), time.monotonic() + SEARCH_SECONDS
    found: list[FoundRow] = []
    number = after
    while number < version.row_count:
        for line in rows.lines(number + 1, ROWS_PER_OFFSET):
            number += 1
            if wanted in line.decode().lower():
                found.append(FoundRow(number, orjson.loads(line)))
                if len(found) == limit:
                    return FoundRows(found, number if number < version.row_count else None)
        if time.monotonic() > deadline:
            return FoundRows(found, number if number < version.row_count else None)
    return FoundRows(found, None)
