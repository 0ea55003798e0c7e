"""Plain text: each paragraph, separated by blank lines, is one row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from finetune_hub.data.defects import BrokenFile
from finetune_hub.data.readers import records
from finetune_hub.data.readers.records import Found, Record, Unread, broken_at, too_long, unread


def read_paragraphs(file: BinaryIO) -> Iterator[Found]:
    """Yield the paragraphs as objects with a `text`."""
    begins = last = size_bytes = 0
    lines: list[bytes] = []
    try:
        for number, raw in records.numbered_lines(file):
            if number > last + 1 and lines:
                yield _row(begins, lines)
                lines, size_bytes = [], 0
            if not lines:
                begins = number
            last = number
            size_bytes += len(raw)
            if size_bytes <= records.MAX_ROW_BYTES or not lines:
                lines.append(raw)
    except BrokenFile as broken:
        yield broken_at(last + 1, broken)
        return
    if lines:
        yield _row(begins, lines)


def _row(begins: int, lines: list[bytes]) -> Record | Unread:
    raw = b"".join(lines)
    if len(raw) > records.MAX_ROW_BYTES:
        return too_long(begins, raw[:200])
    try:
        return Record(begins, {"text": raw.decode().replace("\r\n", "\n").strip("\n")})
    except UnicodeDecodeError as undecodable:
        before = raw[: undecodable.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
        return unread(
            begins + before.count(b"\n"),
            "not_utf8",
            "not UTF-8",
            "Save the file as UTF-8.",
            column=column,
            raw=raw[:200],
        )
