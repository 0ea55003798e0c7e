"""Random access to the rows of a stored file by number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import orjson

from finetune_hub.data.formats.known_formats import KEPT_FORMATS
from finetune_hub.data.report import ROWS_PER_OFFSET
from finetune_hub.data.rows import Row
from finetune_hub.spec.row_kinds import RowKind


class KeptRows:
    """A file stored by `look_at`, with the offsets that it reported. Rows are numbered from 1."""

    def __init__(self, path: Path, kind: RowKind, offsets: Sequence[int]) -> None:
        """
        Args:
            offsets: Byte offsets of rows 1, 1001, 2001 …; if empty, the file is read from the start each time.
        """
        self._path, self._kind, self._offsets = path, kind, offsets or [0]

    def lines(self, start: int, count: int) -> list[bytes]:
        """Return the JSON of up to `count` rows from row `start` on."""
        block = min((start - 1) // ROWS_PER_OFFSET, len(self._offsets) - 1)
        skipped = start - 1 - block * ROWS_PER_OFFSET
        with self._path.open("rb") as file:
            file.seek(self._offsets[block])
            sound = (line for line in file if not line.isspace())
            return list(islice(sound, skipped, skipped + count))

    def rows(self, numbers: Iterable[int]) -> Iterator[tuple[int, Row]]:
        """Yield the rows with these numbers, which must be ascending."""
        starts = [index * ROWS_PER_OFFSET + 1 for index in range(len(self._offsets))]
        with self._path.open("rb") as file:
            at = 0  # The number of the last row read.
            for number in numbers:
                block = bisect_right(starts, number) - 1
                if starts[block] > at + 1 or not at:
                    file.seek(self._offsets[block])
                    at = starts[block] - 1
                for line in file:
                    at += not line.isspace()
                    if at == number:
                        yield number, self._row(line)
                        break

    def row(self, number: int) -> Row | None:
        """Return one row; None if the number is beyond the last row."""
        lines = self.lines(number, 1)
        return self._row(lines[0]) if lines else None

    def _row(self, line: bytes) -> Row:
        return KEPT_FORMATS[self._kind].convert(orjson.loads(line))
