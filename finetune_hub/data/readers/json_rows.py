"""JSON rows in two layouts: JSON Lines, and values that span several lines, in an array or not.

JSON Lines are read line by line, so a broken line costs one row. Multi-line values are split first: a scan for quotes
and brackets finds where each starts and ends, and then each is parsed. So an array of gigabytes needs only the memory
of its longest row, each row keeps its line number, and a broken value within its brackets costs one row too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import orjson

from finetune_hub.data.defects import BrokenFile
from finetune_hub.data.readers import records
from finetune_hub.data.readers.records import Found, Record, Unread, broken_at, numbered_lines, too_long, unread

_CHUNK_BYTES = 1 << 20
# The next bracket, after complete strings and anything else.
_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+([{}\[\]])', re.DOTALL)
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_DEPTHS = {b"{": 1, b"[": 1, b"}": -1, b"]": -1}
_BETWEEN = re.compile(rb"[\s,]*")
_SCALAR = re.compile(rb'[^\s,\[\]{}"]+')


def read_json_lines(file: BinaryIO) -> Iterator[Found]:
    """Yield one JSON value per line."""
    line = 0
    loads, limit = orjson.loads, records.MAX_ROW_BYTES
    try:
        for line, raw in numbered_lines(file):
            if len(raw) > limit:
                yield too_long(line, raw[:200])
                continue
            try:
                value = loads(raw)
            except orjson.JSONDecodeError as broken:
                yield _unparsed(line, raw, broken, "invalid_jsonl_line")
            else:
                yield Record(line, value, raw)
    except BrokenFile as broken:
        yield broken_at(line + 1, broken)


def read_json_values(file: BinaryIO) -> Iterator[Found]:
    """Yield consecutive JSON values in any layout; an array around all of them is removed."""
    scan = _Scan(file)
    try:
        for line, raw in scan.values():
            if raw is None:
                yield replace(too_long(line), ends_here=True)
                continue
            try:
                yield Record(line, orjson.loads(raw), raw)
            except orjson.JSONDecodeError as broken:
                yield _unparsed(line, raw, broken, "invalid_json")
    except BrokenFile as broken:
        yield broken_at(scan.line, broken)


class _Scan:
    """Splits a stream into its top-level values, with the line where each starts."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = b""
        self._at = 0  # Everything before it in the buffer has been consumed.
        self.line = 1  # Line of the byte at `_at`.

    def values(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield line and bytes of each value; a value that is too long has None for its bytes and is the last one.

        Raises:
            BrokenFile: a bracket or quote is never closed, or the bytes cannot be decompressed.
        """
        self._more()
        self._buffer = self._buffer.removeprefix(records.UTF8_MARK)
        in_array = self._next_byte() == b"["
        if in_array:
            self._take(1)
        while start := self._next_byte():
            if start == b"]" and in_array:
                self._take(1)
                in_array = False
            elif start in b"]}":
                self._take(1)
                yield self.line, start
            else:
                size = self._size_of_value(start)
                line, raw = self.line, self._take(size) if size else None
                yield line, raw
                if raw is None:
                    return
        if in_array:
            raise BrokenFile(
                "invalid_json",
                "the array is never closed with ]",
                "Check that the file is complete, or export it again.",
            )

    def _next_byte(self) -> bytes:
        """Return the first byte of the next value; empty at the end of the file."""
        while True:
            blank = _BETWEEN.match(self._buffer, self._at)
            assert blank is not None
            self._take(blank.end() - self._at)
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at : self._at + 1]

    def _size_of_value(self, start: bytes) -> int:
        """Return the size of the next value in bytes; 0 if it is too long."""
        if start not in b'[{"':
            return self._size_of_scalar()
        depth = seen = 0  # Bytes of the value scanned so far.
        while True:
            if start == b'"' and (string := _STRING.match(self._buffer, self._at)):
                return string.end() - self._at
            # `match` instead of `search`: at a cut-off string, a search would retry from every byte.
            while start != b'"' and (bracket := _BRACKET.match(self._buffer, self._at + seen)):
                depth += _DEPTHS[bracket[1]]
                seen = bracket.end() - self._at
                if depth == 0:
                    return seen
            if len(self._buffer) - self._at > records.MAX_ROW_BYTES:
                return 0
            if not self._more():
                self._refuse_unclosed()

    def _size_of_scalar(self) -> int:
        while True:
            scalar = _SCALAR.match(self._buffer, self._at)
            size = scalar.end() - self._at if scalar else 1
            if size > records.MAX_ROW_BYTES:
                return 0
            if self._at + size < len(self._buffer) or not self._more():
                return size

    def _refuse_unclosed(self) -> None:
        """Raise an error with the position where the rest of the file is invalid."""
        try:
            orjson.loads(self._buffer[self._at :])
        except orjson.JSONDecodeError as broken:
            reason = f"{_words(broken)} at line {self.line + broken.lineno - 1}, column {broken.colno}"
        raise BrokenFile(
            "invalid_json",
            f"the value that starts here is never closed ({reason})",
            "Check that the file is complete, or fix the JSON there.",
        )

    def _take(self, size: int) -> bytes:
        taken = self._buffer[self._at : self._at + size]
        self._at += size
        self.line += taken.count(b"\n")
        return taken

    def _more(self) -> bool:
        chunk = self._file.read(_CHUNK_BYTES)
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return bool(chunk)


def _unparsed(line: int, raw: bytes, broken: json.JSONDecodeError, code: str) -> Unread:
    start = raw[:200].rstrip()
    try:
        raw.decode()
    except UnicodeDecodeError as undecodable:
        before = raw[: undecodable.start]
        column = len(before[before.rfind(b"\n") + 1 :].decode()) + 1
        line += before.count(b"\n")
        return unread(line, "not_utf8", "not UTF-8", "Save the file as UTF-8.", column=column, raw=start)
    line += broken.lineno - 1
    if "surrogate" in broken.msg:
        return unread(
            line,
            "not_utf8",
            "half of a surrogate pair in a \\u escape",
            "Write the complete character.",
            column=broken.colno,
            raw=start,
        )
    if "ecursion" in broken.msg or "depth" in broken.msg:
        return unread(line, code, "nested too deeply", "Put one flat JSON object there.", raw=start)
    return unread(
        line,
        code,
        f"not JSON ({_words(broken)})",
        "Put exactly one JSON object on the line." if code == "invalid_jsonl_line" else "Fix the JSON there.",
        column=broken.colno,
        raw=start,
    )


def _words(broken: json.JSONDecodeError) -> str:
    return broken.msg.partition(": line")[0]
