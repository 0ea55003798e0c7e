"""Records: the rows that a reader returns, before their format is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from finetune_hub.data.defects import BrokenFile, Defect
from finetune_hub.spec.sizes import size_in_words

MAX_ROW_BYTES = 16 << 20
UTF8_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """One row as stored in its container."""

    line: int  # Where it starts, counted from 1.
    value: Any
    raw: bytes | None = None  # Its own JSON, if the container is JSON, to locate columns.


@dataclass(frozen=True, slots=True)
class Unread:
    """A row, or the rest of the file, that could not be read."""

    defect: Defect
    raw: bytes = b""  # Its first bytes, to help fix it.
    ends_here: bool = False  # The rest of the file cannot be read.


Found = Record | Unread


def numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield non-blank lines with their numbers; a line beyond the limit is truncated just above it.

    Raises:
        BrokenFile: the bytes cannot be decompressed.
    """
    line = 0
    while raw := file.readline(MAX_ROW_BYTES + 1):
        line += 1
        if len(raw) > MAX_ROW_BYTES:
            rest = raw
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(MAX_ROW_BYTES + 1)
        if line == 1:
            raw = raw.removeprefix(UTF8_MARK)
        if not raw.isspace() and raw:
            yield line, raw


def too_long(line: int, raw: bytes = b"") -> Unread:
    return unread(
        line, "row_too_long", f"longer than {size_in_words(MAX_ROW_BYTES)}", "Split the row into shorter ones.", raw=raw
    )


def unread(
    line: int | None, code: str, message: str, remedy: str, *, column: int | None = None, raw: bytes = b""
) -> Unread:
    return Unread(Defect(code, message, remedy, line=line, column=column), raw)


def broken_at(line: int, broken: BrokenFile) -> Unread:
    """Return why reading a file ended at a line."""
    return Unread(broken.at(line), ends_here=True)
