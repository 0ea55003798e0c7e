"""Parquet files, read in batches of rows. `pyarrow` is imported on first use, as clients may lack it.

A value that many rows share is stored once (`read_dictionary`), in memory and as a Python object, because a column with
one text and a million references to it is tiny in the file. The decompressed size of the file is checked first
(`parquet_sizes`), and the size of each row before the row is passed on.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from finetune_hub.data.compression import compression_of, open_unpacked
from finetune_hub.data.defects import BrokenFile
from finetune_hub.data.readers import records
from finetune_hub.data.readers.parquet_sizes import check_footer, check_ratio, check_sizes, too_large
from finetune_hub.data.readers.records import Found, Record, broken_at, too_long

_BATCH_VALUES = 1 << 18
_MAX_ROW_VALUES = 1 << 20
_BUFFER_BYTES = 1 << 20
MAX_UNPACKED_FILE_BYTES = 2 << 30  # Of a file that is compressed as a whole and decompressed to disk.


def read_parquet(path: Path) -> Iterator[Found]:
    """Yield the rows; `line` is the row's number, counted from 1."""
    row = 0
    try:
        with _seekable(path) as file:
            for row, value in enumerate(_values(file), start=1):
                yield too_long(row) if value is _TOO_LONG else Record(row, value)
    except BrokenFile as broken:
        yield broken_at(row + 1, broken)


_TOO_LONG = object()


def _values(file: BinaryIO) -> Iterator[object]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as missing:
        raise BrokenFile(
            "parquet_not_installed",
            "is Parquet, which needs pyarrow",
            "Install it (`pip install pyarrow`), or convert the file to JSONL.",
            whole_file=True,
        ) from missing
    try:
        check_footer(file)
        with pyarrow.parquet.ParquetFile(file) as opened:
            metadata = opened.metadata
            batch_rows = check_sizes(file, metadata)
        columns = [metadata.schema.column(place) for place in range(metadata.num_columns)]
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        table = pyarrow.parquet.ParquetFile(
            file, metadata=metadata, read_dictionary=texts, buffer_size=_BUFFER_BYTES, pre_buffer=False
        )
        file_bytes, rows_bytes = os.fstat(file.fileno()).st_size, 0
        for group, batch_size in enumerate(batch_rows):
            for batch in table.iter_batches(batch_size=batch_size, row_groups=[group]):
                for row in _rows(pyarrow.StructArray.from_arrays(batch.columns, names=batch.schema.names)):
                    size_bytes = text_bytes(row)
                    rows_bytes += size_bytes
                    check_ratio(rows_bytes, file_bytes)
                    yield _TOO_LONG if size_bytes > records.MAX_ROW_BYTES else row
    except (pyarrow.ArrowException, OSError, ValueError) as damaged:
        first_line = str(damaged).partition("\n")[0]
        raise BrokenFile(
            "invalid_parquet", f"the Parquet data are damaged here ({first_line})", "Export the file again."
        ) from damaged


def _rows(batch: Any) -> Iterator[object]:
    """Yield the rows of a struct array, with `_TOO_LONG` in place of a row with too many values."""
    count = len(batch)
    if count > 1 and _count_values(batch) > _BATCH_VALUES:
        for half in (batch.slice(0, count // 2), batch.slice(count // 2)):
            yield from _rows(half)
    elif count == 1 and _count_values(batch) > _MAX_ROW_VALUES:
        yield _TOO_LONG
    else:
        yield from _to_python(batch)


def _count_values(array: Any) -> int:
    """Return the number of values at all levels of the array."""
    import pyarrow.types as types

    kind = array.type
    if types.is_struct(kind):
        return len(array) + sum(_count_values(field) for field in array.flatten())
    if types.is_map(kind):
        start, end = _span(array)
        return len(array) + sum(_count_values(part.slice(start, end - start)) for part in (array.keys, array.items))
    if _is_list(kind):
        return len(array) + _count_values(array.flatten())
    return len(array)


def _to_python(array: Any) -> list[Any]:
    """Like `to_pylist`, but with one object for all references to the same entry of a dictionary."""
    import pyarrow.compute
    import pyarrow.types as types

    kind = array.type
    if types.is_dictionary(kind):
        used = array.indices.unique().drop_null()  # Many batches share a dictionary; each uses a part.
        entries = dict(zip(used.to_pylist(), array.dictionary.take(used).to_pylist(), strict=True))
        return [entries.get(index) for index in array.indices.to_pylist()]
    if types.is_struct(kind):
        names = [kind.field(place).name for place in range(kind.num_fields)]
        fields = [_to_python(field) for field in array.flatten()]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*fields, strict=True)]
        return _with_nulls(array, rows if names else [{} for _ in range(len(array))])
    if types.is_map(kind):
        start, end = _span(array)
        pairs = list(
            zip(*(_to_python(part.slice(start, end - start)) for part in (array.keys, array.items)), strict=True)
        )
        offsets = [offset - start for offset in array.offsets.to_pylist()]
        return _with_nulls(array, [pairs[a:b] for a, b in pairwise(offsets)])
    if _is_list(kind):
        flat, lists, at = _to_python(array.flatten()), list[Any](), 0
        for length in pyarrow.compute.list_value_length(array).to_pylist():
            lists.append(None if length is None else flat[at : at + length])
            at += length or 0
        return lists
    values: list[Any] = array.to_pylist()
    return values


def _span(array: Any) -> tuple[int, int]:
    """Return where the entries of a map array begin and end in its keys and items."""
    return array.offsets[0].as_py(), array.offsets[-1].as_py()


def _is_list(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _with_nulls(array: Any, rows: list[Any]) -> list[Any]:
    if array.null_count == 0:
        return rows
    return [row if is_valid else None for row, is_valid in zip(rows, array.is_valid().to_pylist(), strict=True)]


def text_bytes(value: Any) -> int:
    """Return the total length of all texts and bytes in a value, each counted at every use."""
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is dict:
        return sum(map(text_bytes, value.values()))
    if kind is list or kind is tuple:
        return sum(map(text_bytes, value))
    return 0


def _seekable(path: Path) -> BinaryIO:
    """Open a file for random access, as Parquet needs it; decompress it into a temporary file if necessary."""
    if compression_of(path) is None:
        return path.open("rb")
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115  # The caller closes it.
    with open_unpacked(path) as stream:
        while chunk := stream.read(_BUFFER_BYTES):
            unpacked.write(chunk)
            if unpacked.tell() > MAX_UNPACKED_FILE_BYTES:
                unpacked.close()
                raise too_large("it expands to more than 2 GiB")
    unpacked.seek(0)
    return unpacked
