"""Tables: CSV and TSV files with column names in the first line. Cells are strings; a blank cell is empty."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from finetune_hub.data.defects import BrokenFile
from finetune_hub.data.readers import records
from finetune_hub.data.readers.records import Found, Record, Unread, broken_at, too_long, unread

csv.field_size_limit(records.MAX_ROW_BYTES)  # Process-wide; the default is 128 KiB.


class _Undecodable(Exception):
    def __init__(self, line: int, column: int) -> None:
        super().__init__()
        self.line, self.column = line, column


def read_table(file: BinaryIO, delimiter: str) -> Iterator[Found]:
    """Yield the rows below the heading, each as an object of strings."""
    lines = _Lines(file)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        begins = lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except BrokenFile as broken:
            yield broken_at(lines.number + 1, broken)
            return
        except _Undecodable as place:
            yield unread(place.line, "not_utf8", "not UTF-8", "Save the file as UTF-8.", column=place.column)
            continue
        except csv.Error as broken:
            yield _unparsed(begins, broken)
            continue
        if not cells or not any(cells):
            continue
        if names is None:
            names = cells
            if defect := _heading_defect(begins, names):
                yield defect
                return
        elif len(cells) != len(names):
            raw = delimiter.join(cells)[:200].encode()
            yield unread(
                begins,
                "wrong_column_count",
                f"{len(cells)} cells under {len(names)} columns",
                "Put quotes around cells that contain the separator or a line break.",
                raw=raw,
            )
        else:
            yield Record(begins, dict(zip(names, cells, strict=True)))


class _Lines:
    """The file's lines as text. A line that is too long raises the csv module's error for its field limit."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.number = 0
        self._row_bytes = 0

    def begin_row(self) -> int:
        """Begin a row, whose lines together have the size limit of a row; return the number of its first line."""
        self._row_bytes = 0
        return self.number + 1

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        raw = self._file.readline(records.MAX_ROW_BYTES + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        if len(raw) > records.MAX_ROW_BYTES:
            rest = raw
            while rest and not rest.endswith(b"\n"):
                rest = self._file.readline(records.MAX_ROW_BYTES + 1)
            raise csv.Error("field larger than field limit")
        self._row_bytes += len(raw)
        if self._row_bytes > records.MAX_ROW_BYTES:
            raise csv.Error("row larger than its limit")
        if self.number == 1:
            raw = raw.removeprefix(records.UTF8_MARK)
        try:
            return raw.decode()
        except UnicodeDecodeError as undecodable:
            raise _Undecodable(self.number, len(raw[: undecodable.start].decode()) + 1) from None


def _heading_defect(line: int, names: list[str]) -> Unread | None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        named = ", ".join(f"`{name}`" for name in twice[:3])
        return unread(line, "invalid_heading", f"{named} names two columns", "Give each column a unique name.")
    return None


def _unparsed(line: int, broken: csv.Error) -> Unread:
    if "limit" in str(broken):
        return too_long(line)
    return unread(
        line,
        "invalid_table_row",
        f"not readable as a row ({broken})",
        'Close every quote, and write a quote inside a cell as "".',
    )
