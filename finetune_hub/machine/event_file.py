"""A run's events as lines of `events.jsonl`. Trainers and fetchers write them, workers and terminals read them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from finetune_hub.spec.events import EngineEvent, Event, Log, engine_event

EVENTS_FILE = "events.jsonl"


class EventLog:
    """Appends events to `events.jsonl`; each line is written in one call, so a reader never sees a partial line.

    If a full disk truncates a line, the partial line is removed.
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


def read_events(output_dir: Path, offset: int = 0) -> tuple[list[EngineEvent], int]:
    """Return the complete lines of a folder's `events.jsonl` from a byte offset on, and the offset after them."""
    try:
        with (output_dir / EVENTS_FILE).open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], offset
    complete = data[: data.rfind(b"\n") + 1]
    return [engine_event.validate_json(line) for line in complete.splitlines()], offset + len(complete)
