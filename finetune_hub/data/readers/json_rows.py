"""JSON, in the two shapes in which rows come: JSON Lines, and values spread over lines, in one array or without.

JSON Lines are read line by line, so a broken line costs one row. Values spread over lines are parted first: a scan
for quotes and brackets finds where each begins and ends, and only then is each parsed. So an array of gigabytes needs
the memory of its longest row, each row keeps its line, and a broken value in sound brackets costs one row too.
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
# A whole string, or a bracket, or the quote of a string that goes on behind the buffer.
_MARK = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\]"]', re.DOTALL)
_BETWEEN = re.compile(rb"[\s,]*")
_SCALAR = re.compile(rb'[^\s,\[\]{}"]+')


def read_json_lines(file: BinaryIO) -> Iterator[Found]:
    """One JSON value a line."""
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
    """JSON values one behind the other, however they are laid out; an array around all of them is taken off."""
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
    """Parts a stream into the values at its top, with the line where each begins."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = b""
        self.line = 1  # Of the buffer's first byte.

    def values(self) -> Iterator[tuple[int, bytes | None]]:
        """Line and bytes of each value; None for the bytes of one that is too long, after which nothing follows.

        Raises:
            BrokenFile: a bracket or quote is never closed, or the bytes cannot be unpacked.
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
                end = self._end_of_value(start)
                line, raw = self.line, self._take(end) if end else None
                yield line, raw
                if raw is None:
                    return
        if in_array:
            raise BrokenFile("invalid_json", "the array is never closed with ]", "Is the file whole? Export it again.")

    def _next_byte(self) -> bytes:
        """The first byte of the next value; empty at the end of the file."""
        while True:
            blank = _BETWEEN.match(self._buffer)
            assert blank is not None
            self._take(blank.end())
            if self._buffer or not self._more():
                return self._buffer[:1]

    def _end_of_value(self, start: bytes) -> int:
        """Where the value at the buffer's start ends; 0: it is too long."""
        if start not in b'[{"':
            while (scalar := _SCALAR.match(self._buffer)) and scalar.end() == len(self._buffer) and self._more():
                if len(self._buffer) > records.MAX_ROW_BYTES:
                    return 0
            return scalar.end() if scalar else 1
        depth = position = 0
        while True:
            for mark in _MARK.finditer(self._buffer, position):
                kind = mark[0]
                if kind == b'"':
                    position = mark.start()
                    break
                depth += (kind in b"{[") - (kind in b"}]")
                if depth == 0:
                    return mark.end()
                position = mark.end()
            if len(self._buffer) > records.MAX_ROW_BYTES:
                return 0
            if not self._more():
                self._refuse_unclosed()

    def _refuse_unclosed(self) -> None:
        """Name the place where the rest of the file stops making sense."""
        try:
            orjson.loads(self._buffer)
        except orjson.JSONDecodeError as broken:
            reason = f"{_words(broken)} at line {self.line + broken.lineno - 1}, column {broken.colno}"
        raise BrokenFile(
            "invalid_json",
            f"the value that begins here is never closed ({reason})",
            "Is the file whole? Mend it there.",
        )

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        self.line += taken.count(b"\n")
        return taken

    def _more(self) -> bool:
        chunk = self._file.read(_CHUNK_BYTES)
        self._buffer += chunk
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
            "Write the whole character.",
            column=broken.colno,
            raw=start,
        )
    if "ecursion" in broken.msg or "depth" in broken.msg:
        return unread(line, code, "nested too deeply", "Put one flat JSON object there.", raw=start)
    return unread(
        line,
        code,
        f"not JSON ({_words(broken)})",
        "Put exactly one JSON object on the line." if code == "invalid_jsonl_line" else "Mend the JSON there.",
        column=broken.colno,
        raw=start,
    )


def _words(broken: json.JSONDecodeError) -> str:
    return broken.msg.partition(": line")[0]
