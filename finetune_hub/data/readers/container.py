"""Detect a file's container by its first bytes and lines, and by its name if these are ambiguous."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePath

import orjson

from finetune_hub.data.compression import Compression, compression_of, open_unpacked
from finetune_hub.data.defects import BrokenFile
from finetune_hub.data.readers.json_rows import read_json_lines, read_json_values
from finetune_hub.data.readers.parquet import read_parquet
from finetune_hub.data.readers.plain_text import read_paragraphs
from finetune_hub.data.readers.records import UTF8_MARK, Found
from finetune_hub.data.readers.tables import read_table

_LOOKED_AT_BYTES = 64 << 10
_LOOKED_AT_LINES = 20
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_TEXT_ENDINGS = {".csv", ".tsv", ".tab", ".txt", ".md"}
_PACKED_ENDINGS = {".gz", ".gzip", ".zst", ".zstd"}


class ContainerKind(StrEnum):
    JSONL = "JSONL"
    JSON = "JSON"
    CSV = "CSV"
    TSV = "TSV"
    PARQUET = "Parquet"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Container:
    """How to read the rows of a file, and why."""

    kind: ContainerKind
    reason: str  # A clause: `each line is a JSON value`.
    compression: Compression | None = None
    delimiter: str = ","

    def records(self, path: Path) -> Iterator[Found]:
        """Yield the rows as stored in the container."""
        if self.kind == ContainerKind.PARQUET:
            yield from read_parquet(path)
            return
        with open_unpacked(path) as file:
            match self.kind:
                case ContainerKind.JSONL:
                    yield from read_json_lines(file)
                case ContainerKind.JSON:
                    yield from read_json_values(file)
                case ContainerKind.CSV | ContainerKind.TSV:
                    yield from read_table(file, self.delimiter)
                case ContainerKind.TEXT:
                    yield from read_paragraphs(file)


def find_container(path: Path, file_name: str) -> Container:
    """Detect the container of a file.

    Raises:
        BrokenFile: it has no readable rows.
    """
    compression = compression_of(path)
    with open_unpacked(path) as file:
        start = file.read(_LOOKED_AT_BYTES)
    kind, reason, delimiter = _look(start, _ending(file_name))
    return Container(kind, reason, compression, delimiter)


def _look(start: bytes, ending: str) -> tuple[ContainerKind, str, str]:
    if start.startswith(b"PAR1"):
        return ContainerKind.PARQUET, "it starts with Parquet's magic bytes", ""
    if start.startswith(_UTF16_MARKS):
        raise BrokenFile("not_utf8", "is UTF-16, not UTF-8", "Save it again as UTF-8.", whole_file=True)
    text = start.removeprefix(UTF8_MARK).lstrip()
    if not text:
        raise BrokenFile("empty_file", "has no rows", "Put one row on each line.", whole_file=True)
    is_json_name = ending in {".jsonl", ".ndjson", ".json"}
    if text[:1] in b"{[" and (is_json_name or ending not in _TEXT_ENDINGS or _begins_json(text)):
        return *_look_at_json(text), ""
    if b"\0" in start and not (is_json_name or ending in _TEXT_ENDINGS):
        raise BrokenFile(
            "unknown_container",
            "is binary, but not Parquet, gzip or zstd",
            "Export it as JSONL, JSON, CSV, TSV, Parquet or text.",
            whole_file=True,
        )
    if is_json_name and _is_json(text.partition(b"\n")[0]):
        return ContainerKind.JSONL, "each line is a JSON value", ""
    return _look_at_text(text, ending)


def _look_at_json(text: bytes) -> tuple[ContainerKind, str]:
    first, _, rest = text.partition(b"\n")
    second = rest.lstrip().partition(b"\n")[0]
    if text[:1] == b"[" and not (_is_json(first) and second.startswith(b"[")):
        return ContainerKind.JSON, "it is one JSON array"
    if second and _is_cut_short(first) and not (second.startswith(b"{") and _is_json(second)):
        return ContainerKind.JSON, "its JSON values spread over several lines"
    return ContainerKind.JSONL, "each line is a JSON value"


def _look_at_text(text: bytes, ending: str) -> tuple[ContainerKind, str, str]:
    lines = text.decode(errors="replace").splitlines()
    if len(text) > _LOOKED_AT_BYTES // 2:
        lines = lines[:-1] or lines  # The last one may be incomplete.
    lines = lines[:_LOOKED_AT_LINES]
    counts = {delimiter: _columns(lines, delimiter) for delimiter in ("\t", ",", ";")}
    if ending in {".tsv", ".tab"}:
        return ContainerKind.TSV, f"its name ends with {ending}", "\t"
    if ending == ".csv":
        delimiter = max((",", ";", "\t"), key=lambda each: _columns(lines[:1], each))
        return ContainerKind.CSV, f"its name ends with {ending}", delimiter
    if ending not in {".txt", ".md"}:
        delimiter = max(counts, key=lambda each: counts[each])
        if counts[delimiter] > 1 and len(lines) > 1:
            word = {"\t": "tabs", ",": "commas", ";": "semicolons"}[delimiter]
            kind = ContainerKind.TSV if delimiter == "\t" else ContainerKind.CSV
            return kind, f"its first lines have {counts[delimiter]} cells each, separated by {word}", delimiter
    if ending in {".jsonl", ".ndjson", ".json"}:
        raise BrokenFile(
            "not_jsonl", "starts like neither JSON nor a table", "Put one JSON object on each line.", whole_file=True
        )
    return ContainerKind.TEXT, "it is neither JSON, a table nor Parquet", ""


def _columns(lines: list[str], delimiter: str) -> int:
    """Return the number of cells per line; 0 if it differs between lines."""
    try:
        counts = {len(cells) for cells in csv.reader(lines, delimiter=delimiter) if cells}
    except csv.Error:
        return 0
    return counts.pop() if len(counts) == 1 else 0


def _is_json(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _is_cut_short(text: bytes) -> bool:
    """Return whether the text is incomplete but otherwise valid JSON."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as broken:
        return "end of data" in broken.msg
    return False


def _begins_json(text: bytes) -> bool:
    """Return whether the text could be JSON: a key or a value follows its first bracket."""
    inside = text[1:].lstrip()[:1]
    return inside in b'"}' if text[:1] == b"{" else inside in b'{["]-0123456789tfn'


def _ending(file_name: str) -> str:
    """Return the ending without compression, such as `.csv` for `rows.csv.gz`."""
    name = PurePath(file_name.lower())
    return PurePath(name.stem).suffix if name.suffix in _PACKED_ENDINGS else name.suffix
