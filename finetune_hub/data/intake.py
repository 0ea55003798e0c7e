"""Convert a user's file to the hub's rows. Shared by page, API, CLI and trainer.

    bytes → decompressed → container (JSONL, CSV, …) → format (chat, alpaca, …) → row of ours

The format is detected from the first rows. Then every row is converted; a row that cannot be is rejected with all its
defects, each with line and column, and reading continues. Files are streamed, so only the size of a single row is
limited.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from finetune_hub.data.defects import BadRow, BrokenFile, Defect, InvalidDataset, RowProblem, json_type
from finetune_hub.data.formats.format import Format
from finetune_hub.data.formats.known_formats import recognise
from finetune_hub.data.formats.mapped import Mapped
from finetune_hub.data.places import place_of
from finetune_hub.data.readers.container import Container, find_container
from finetune_hub.data.readers.records import Found, Record, Unread
from finetune_hub.data.rows import Row

_SAMPLE_ROWS = 100
_SAMPLE_BYTES = 4 << 20
_NAMED_COLUMNS = 12
_PLACED_DEFECTS = 20
# An escaped NUL, but not an escaped backslash before `u0000`. Postgres cannot store NUL.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that cannot be trained on."""

    defects: list[Defect]
    raw: bytes  # As in the file, or as JSON; only the start if it could not be read.
    ends_here: bool = False  # The rest of the file could not be read.


@dataclass(frozen=True, slots=True)
class GoodRow:
    """A row of ours, and its line in the file."""

    line: int
    row: Row
    json: bytes  # The row's JSON, on one line.


class UnknownFormat(Exception):
    """The rows are in no known format."""

    def __init__(self, columns: list[str]) -> None:
        super().__init__()
        self.columns = columns


class RecognisedFile:
    """A dataset file with a known container and format; `rows` reads it from the start."""

    def __init__(self, path: Path, file_name: str | None = None, mapping: Mapping[str, str] | None = None) -> None:
        """
        Args:
            file_name: The file's original name, if it is stored under another one (an upload's temporary file).
            mapping: Column → part, for columns of no known format.

        Raises:
            BrokenFile: it has no readable rows.
            UnknownFormat: it can be read, but its columns match no known format.
            Refusal: `invalid_mapping`.
        """
        self.path = path
        self.file_name = file_name or path.name
        self.container: Container = find_container(path, self.file_name)
        sample = self._sample()
        documents = [found.value for found in sample if isinstance(found, Record) and isinstance(found.value, dict)]
        self.columns = sorted({str(name) for document in documents for name in document})
        self.format: Format
        if mapping:
            self.format = Mapped(mapping)
            self.reason = self.format.looks({}) or ""
        elif found := recognise(documents):
            self.format, self.reason = found.format, found.reason
        elif documents and self.columns:
            raise UnknownFormat(self.columns)
        else:
            raise self._nothing_readable(sample)

    def rows(self) -> Iterator[GoodRow | Rejected]:
        """Yield every row, good or bad, in file order."""
        convert, kind = self.format.convert, None
        for found in self.container.records(self.path):
            if isinstance(found, Unread):
                yield Rejected([found.defect], found.raw, found.ends_here)
                continue
            try:
                if not isinstance(found.value, dict):
                    raise BadRow([_not_an_object(found.value)])
                row = convert(found.value)
                kind = kind or type(row)
                if type(row) is not kind:
                    raise BadRow([_MIXED])
                yield GoodRow(found.line, row, _to_json(row))
            except BadRow as bad:
                yield Rejected(_defects_of(bad, found), _raw_of(found))

    def _sample(self) -> list[Found]:
        sample: list[Found] = []
        size_bytes = 0
        for found in self.container.records(self.path):
            sample.append(found)
            size_bytes += len(found.raw or b"")
            if len(sample) == _SAMPLE_ROWS or size_bytes > _SAMPLE_BYTES:
                break
        return sample

    def _nothing_readable(self, sample: list[Found]) -> BrokenFile | InvalidDataset:
        """Return why the first rows show no format."""
        defects = [
            found.defect if isinstance(found, Unread) else _placed(_not_an_object(found.value), found)
            for found in sample
            if isinstance(found, Unread) or not isinstance(found.value, dict)
        ]
        if defects:
            return InvalidDataset(self.file_name, defects)
        return BrokenFile("empty_file", "has no rows", "Put one row on each line.", whole_file=True)


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the rows of a file with their line numbers.

    Raises:
        InvalidDataset: at the first defect.
    """
    try:
        file = RecognisedFile(path)
    except BrokenFile as broken:
        raise InvalidDataset(path.name, [broken.at(1)]) from broken
    except UnknownFormat as unknown:
        raise InvalidDataset(path.name, [unknown_format(unknown)]) from unknown
    for found in file.rows():
        if isinstance(found, Rejected):
            raise InvalidDataset(path.name, found.defects)
        yield found.line, found.row


def unknown_format(unknown: UnknownFormat) -> Defect:
    named = ", ".join(f"`{column}`" for column in unknown.columns[:_NAMED_COLUMNS])
    more = ", …" if len(unknown.columns) > _NAMED_COLUMNS else ""
    return Defect(
        code="unknown_format",
        message=f"has the columns {named}{more}, which match no known format",
        remedy="Map each column to a part, such as user or assistant.",
    )


def _to_json(row: Row) -> bytes:
    """
    Raises:
    BadRow: the row contains something that cannot be stored.
    """
    try:
        line = orjson.dumps(row.document(), option=orjson.OPT_APPEND_NEWLINE)
    except TypeError as unwritable:
        what = "nested too deeply" if "ecursion" in str(unwritable) else "contains a value that JSON does not support"
        raise BadRow([RowProblem("not_storable", what, "Use only text, numbers, lists and flat objects.")]) from None
    if b"\\u0000" in line and _NUL.search(line):
        raise BadRow([RowProblem("not_storable", "contains a NUL character", "Remove that character.")])
    return line


_MIXED = RowProblem(
    "mixed_rows",
    "a row of a different kind than the first one",
    "Upload each kind as a separate dataset, and use several datasets in the job.",
)


def _not_an_object(value: object) -> RowProblem:
    return RowProblem("not_an_object", f"a JSON {json_type(value)}, not an object", 'Write {"messages": […]}.')


def _defects_of(bad: BadRow, record: Record) -> list[Defect]:
    """Return the row's defects. Only the first have a column, as locating one takes time proportional to the row."""
    placed = [_placed(problem, record) for problem in bad.problems[:_PLACED_DEFECTS]]
    return placed + [problem.at(record.line, None) for problem in bad.problems[_PLACED_DEFECTS:]]


def _placed(problem: RowProblem, record: Record) -> Defect:
    line: int = record.line
    column = None
    if record.raw is not None and (place := place_of(record.raw, problem.path)):
        line, column = line + place[0], place[1]
    return problem.at(line, column)


def _raw_of(record: Record) -> bytes:
    if record.raw is not None:
        return record.raw.strip()
    return orjson.dumps(record.value, default=str, option=orjson.OPT_NON_STR_KEYS)
