"""Join the files of a dataset's split into one: Parquet batch by batch, text files by appending."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path


def join_files(files: Sequence[Path], target: Path) -> Path:
    """Return one file with the rows of all, in order; a single file is returned as it is. All have the same format."""
    if len(files) == 1:
        return files[0]
    if files[0].suffix == ".parquet":
        _join_parquet(files, target)
    else:
        with target.open("wb") as joined:
            for file in files:
                with file.open("rb") as part:
                    shutil.copyfileobj(part, joined)
                if (
                    file.suffix == ".jsonl"
                ):  # Its last line may lack a newline; compressed files are appended as they are.
                    joined.write(b"\n")
    return target


def _join_parquet(files: Sequence[Path], target: Path) -> None:
    from pyarrow.parquet import ParquetFile, ParquetWriter

    with ParquetWriter(target, ParquetFile(files[0]).schema_arrow) as writer:
        for file in files:
            for batch in ParquetFile(file).iter_batches():
                writer.write_batch(batch)
