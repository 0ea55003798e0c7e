"""The run's voice: events as lines of `events.jsonl`, and the result as a file that is whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel

from finetune_hub.spec.events import Event, Log

EVENTS_FILE = "events.jsonl"
RESULT_FILE = "result.json"


class EventLog:
    """Appends events to `events.jsonl`; each line is written at once, so a reader never sees half of one.

    A full disk takes a part of a line and no more: that part is taken back.
    """

    def __init__(self, output_dir: Path) -> None:
        output_dir.mkdir(parents=True, exist_ok=True)
        self._file = (output_dir / EVENTS_FILE).open("ab", buffering=0)

    def emit(self, event: Event) -> None:
        line = event.model_dump_json().encode() + b"\n"
        written = self._file.write(line)
        if written < len(line):
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._file.name)

    def info(self, message: str) -> None:
        self.emit(Log(message=message))

    def warn(self, message: str) -> None:
        self.emit(Log(level="warn", message=message))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def write_result(output_dir: Path, result: BaseModel) -> None:
    """Write `result.json`, whole or not at all."""
    write_durably(output_dir / RESULT_FILE, result.model_dump_json(indent=2).encode() + b"\n")


def write_durably(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
