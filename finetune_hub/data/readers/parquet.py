"""Parquet files, read in batches of rows. `pyarrow` is imported on first use, as clients may lack it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from finetune_hub.data.compression import compression_of, open_unpacked
from finetune_hub.data.defects import BrokenFile
from finetune_hub.data.readers.records import Found, Record, broken_at

_BATCH_ROWS = 256


def read_parquet(path: Path) -> Iterator[Found]:
    """Yield the rows; `line` is the row's number, counted from 1."""
    row = 0
    try:
        with _seekable(path) as file:
            for row, value in enumerate(_values(file), start=1):
                yield Record(row, value)
    except BrokenFile as broken:
        yield broken_at(row + 1, broken)


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
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as damaged:
        first_line = str(damaged).partition("\n")[0]
        raise BrokenFile(
            "invalid_parquet", f"the Parquet data are damaged here ({first_line})", "Export the file again."
        ) from damaged


def _seekable(path: Path) -> BinaryIO:
    """Open a file for random access, as Parquet needs it; decompress it into a temporary file if necessary."""
    if compression_of(path) is None:
        return path.open("rb")
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115  # The caller closes it.
    with open_unpacked(path) as stream:
        shutil.copyfileobj(stream, unpacked, 1 << 20)
    unpacked.seek(0)
    return unpacked
