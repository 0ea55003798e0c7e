"""The decompressed size of a Parquet file, read from its headers before any page is decompressed.

    … page header · page · page header · page …   FileMetaData   its length, 4 bytes   PAR1

Both headers use Thrift's compact protocol, from which the relevant fields are read here. If the footer and the page
headers disagree, the page headers count, because readers allocate memory by them.
Source: https://github.com/apache/parquet-format, `parquet.thrift` and `README.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

from finetune_hub.data.compression import MAX_RATIO, MAX_UNPACKED_BYTES, RATIO_COUNTS_FROM_BYTES
from finetune_hub.data.defects import BrokenFile
from finetune_hub.spec.sizes import size_in_words

MAX_FOOTER_BYTES = 16 << 20
MAX_SCHEMA_ELEMENTS = 10_000
MAX_DEPTH = 64
MAX_PAGE_BYTES = 256 << 20
MAX_GROUP_VALUES = 32 << 20
"""The limit of values of a column with lists in one row group, all of which could be in a single row."""
MAX_FIXED_BYTES = 64
"""The limit of one value in a column of fixed length."""
VALUE_BYTES = 16
"""The memory of a value while it is read, in addition to its bytes in the page, where it can take less than a bit."""
_BATCH_BYTES, _MOST_ROWS = 64 << 20, 8192
_MAX_PAGES, _PAGE_AT_LEAST_BYTES = 200_000, 1 << 10
_MAX_HEADER_BYTES = 1 << 20
_LOOKED_AT_BYTES = 1 << 10
_MAX_SKIPPED_DEPTH = 16
_DELTA_BYTE_ARRAY = 7  # A value can repeat the previous one without a byte of its own.


def check_footer(file: BinaryIO) -> None:
    """Check the schema before a library builds it: its size, its number of columns and their depth.

    Raises:
        BrokenFile: the footer is damaged or too large.
    """
    file.seek(0, 2)
    size_bytes = file.tell()
    file.seek(max(0, size_bytes - 8))
    end = file.read(8)
    footer_bytes = int.from_bytes(end[:4], "little")
    if end[4:] != b"PAR1" or footer_bytes > size_bytes - 12:
        raise _broken("the file does not end with its footer")
    if footer_bytes > MAX_FOOTER_BYTES:
        raise too_large(f"its footer has {size_in_words(footer_bytes)}")
    file.seek(size_bytes - 8 - footer_bytes)
    thrift = _Thrift(file.read(footer_bytes))
    try:
        open_children = [0]
        for field, kind in thrift.fields():
            if field != 2 or kind != _LIST:
                thrift.skip(kind)
                continue
            for element in thrift.structs(MAX_SCHEMA_ELEMENTS):
                while len(open_children) > 1 and open_children[-1] == 0:
                    open_children.pop()
                open_children[-1] -= 1
                if len(open_children) > MAX_DEPTH:
                    raise too_large(f"its columns are nested more than {MAX_DEPTH} levels deep")
                if children := element.get(5, 0):
                    open_children.append(children)
            return
    except (IndexError, ValueError) as damaged:
        raise _broken("its footer cannot be read") from damaged


def check_sizes(file: BinaryIO, metadata: Any) -> list[int]:
    """Add up the decompressed sizes of all pages, and refuse a decompression bomb.

    Args:
        metadata: pyarrow's `FileMetaData` of the file.

    Returns:
        The number of rows per batch of each row group, so that a batch takes some tens of MB.

    Raises:
        BrokenFile: the file, or one of its pages, is too large.
    """
    file.seek(0, 2)
    file_bytes = file.tell()
    unpacked_bytes, pages_left = 0, _MAX_PAGES + file_bytes // _PAGE_AT_LEAST_BYTES
    group_bytes = [0.0] * metadata.num_row_groups  # As if all values were as large as in the page with the largest.
    for place in range(metadata.num_columns):
        column = metadata.schema.column(place)
        if column.physical_type == "FIXED_LEN_BYTE_ARRAY" and column.length > MAX_FIXED_BYTES:
            raise too_large(f"each value of `{column.path}` has {size_in_words(column.length)}")
        for group in range(metadata.num_row_groups):
            values, largest = 0, 0.0
            for page in _pages(file, metadata.row_group(group).column(place), file_bytes):
                pages_left -= 1
                values += page.values
                if not page.is_dictionary and page.values:
                    largest = max(largest, page.unpacked_bytes / page.values)
                unpacked_bytes += page.unpacked_bytes + page.values * VALUE_BYTES
                _check_page(page, column.path, pages_left)
                check_ratio(unpacked_bytes, file_bytes)
            if column.max_repetition_level and values > MAX_GROUP_VALUES:
                raise too_large(f"a row group has {values:,} values in `{column.path}`")
            group_bytes[group] += values * largest
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return [
        max(1, min(_MOST_ROWS, int(_BATCH_BYTES * count / max(1.0, size_bytes))))
        for count, size_bytes in zip(rows, group_bytes, strict=True)
    ]


def check_ratio(unpacked_bytes: int, file_bytes: int) -> None:
    """Apply the limits of `compression`, which hold for every container.

    Raises:
        BrokenFile: a decompression bomb.
    """
    if unpacked_bytes < RATIO_COUNTS_FROM_BYTES:
        return
    if unpacked_bytes > file_bytes * MAX_RATIO or unpacked_bytes > MAX_UNPACKED_BYTES:
        raise too_large(f"it expands to at least {unpacked_bytes / file_bytes:,.0f} times its size")


def too_large(what: str) -> BrokenFile:
    """
    Args:
        what: A clause, `its footer has 17 MB`.
    """
    return BrokenFile(
        "unpacks_too_large",
        f"is too large when decompressed: {what}",
        "Export it again in row groups of a few thousand rows, or as JSONL.",
        whole_file=True,
    )


def _broken(why: str) -> BrokenFile:
    return BrokenFile(
        "invalid_parquet", f"is not a complete Parquet file ({why})", "Export the file again.", whole_file=True
    )


@dataclass(frozen=True, slots=True)
class _Page:
    unpacked_bytes: int
    values: int
    encoding: int
    is_dictionary: bool


def _check_page(page: _Page, path: str, pages_left: int) -> None:
    if page.unpacked_bytes > MAX_PAGE_BYTES:
        raise too_large(f"a page of `{path}` has {size_in_words(page.unpacked_bytes)}")
    if page.encoding == _DELTA_BYTE_ARRAY:
        raise too_large(f"the encoding DELTA_BYTE_ARRAY of `{path}` hides how large its values are")
    if pages_left < 0:
        raise too_large("it has too many pages for its size")


def _pages(file: BinaryIO, chunk: Any, file_bytes: int) -> Iterable[_Page]:
    """Yield the pages of one column in one row group, from their headers."""
    starts = [offset for offset in (chunk.dictionary_page_offset, chunk.data_page_offset) if offset]
    at = min(starts, default=0)
    end = at + chunk.total_compressed_size
    if at < 4 or end > file_bytes:
        raise _broken(f"the column `{chunk.path_in_schema}` is not where the footer says")
    values = 0
    while at < end and values < chunk.num_values:
        header, header_bytes = _header_at(file, at)
        packed_bytes = _number(header, 3)
        page = _page_of(header)
        values += 0 if page.is_dictionary else page.values
        yield page
        at += header_bytes + packed_bytes


def _page_of(header: dict[int, Any]) -> _Page:
    """Return the page of a `PageHeader`: 2 decompressed size, 5 data, 7 dictionary, 8 data in version 2."""
    about: dict[int, Any] = next((header[kind] for kind in (5, 7, 8) if isinstance(header.get(kind), dict)), {})
    encoding = about.get(4 if 8 in header else 2, 0)
    return _Page(_number(header, 2), _number(about, 1), encoding, 7 in header)


def _number(fields: dict[int, Any], field: int) -> int:
    found = fields.get(field, 0)
    if not isinstance(found, int) or found < 0:
        raise _broken("a page's header is not valid")
    return found


def _header_at(file: BinaryIO, offset: int) -> tuple[dict[int, Any], int]:
    """Return the `PageHeader` at the offset, and its size in bytes."""
    looked_at = _LOOKED_AT_BYTES
    while True:
        file.seek(offset)
        data = file.read(looked_at)
        thrift = _Thrift(data)
        try:
            return thrift.struct(), thrift.at
        except IndexError:
            if len(data) < looked_at or looked_at >= _MAX_HEADER_BYTES:
                raise _broken("a page's header is cut short") from None
            looked_at *= 16
        except ValueError as damaged:
            raise _broken("a page's header cannot be read") from damaged


_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_NUMBERS = (_I16, _I32, _I64)


class _Thrift:
    """Bytes in Thrift's compact protocol. IndexError: they end too early; ValueError: they are not valid."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Read a struct's numbers and structs by field id; skip everything else."""
        found: dict[int, Any] = {}
        for field, kind in self.fields():
            if kind in _NUMBERS:
                found[field] = self._zigzag()
            elif kind == _STRUCT and depth < 2:
                found[field] = self.struct(depth + 1)
            else:
                self.skip(kind)
        return found

    def structs(self, most: int) -> Iterable[dict[int, Any]]:
        """Read the elements of a list of structs."""
        size, kind = self._list_head()
        if kind != _STRUCT or size > most:
            raise too_large(f"it has {size:,} columns") if size > most else ValueError("no list of structs")
        return (self.struct() for _ in range(size))

    def fields(self) -> Iterable[tuple[int, int]]:
        """Yield id and kind of each field of a struct. The caller reads or skips its value."""
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            yield field, head & 15

    def skip(self, kind: int, depth: int = 0) -> None:
        if depth > _MAX_SKIPPED_DEPTH:
            raise ValueError("nested too deeply")
        if kind in (_TRUE, _FALSE):
            return
        if kind in _NUMBERS:
            self._varint()
        elif kind in (_BYTE, _DOUBLE):
            self._pass(1 if kind == _BYTE else 8)
        elif kind == _BINARY:
            self._pass(self._varint())
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in (_LIST, _SET):
            size, inner = self._list_head()
            for _ in range(size):
                self.skip(_BYTE if inner in (_TRUE, _FALSE) else inner, depth + 1)
        elif kind == _MAP:
            self._skip_map(depth)
        else:
            raise ValueError(f"there is no kind {kind}")

    def _skip_map(self, depth: int) -> None:
        size = self._varint()
        kinds = self._byte() if size else 0
        for _ in range(size):
            for inner in (kinds >> 4, kinds & 15):
                self.skip(_BYTE if inner in (_TRUE, _FALSE) else inner, depth + 1)

    def _list_head(self) -> tuple[int, int]:
        head = self._byte()
        size = self._varint() if head >> 4 == 15 else head >> 4
        return size, head & 15

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
            shift += 7
            if shift > 63:
                raise ValueError("a number is too long")

    def _byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte

    def _pass(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError("cut short")
