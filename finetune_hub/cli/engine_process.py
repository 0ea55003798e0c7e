"""The engine or a download as a child process: start a command, follow its events, stop it. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from pydantic import BaseModel

from finetune_hub.machine.event_file import EVENTS_FILE, read_events
from finetune_hub.machine.processes import signal_group
from finetune_hub.spec.events import EngineEvent

POLL_SECONDS = 0.1
LOG_FILE = "engine.log"


class EngineProcess:
    """A running command in its own session, so that Ctrl-C only reaches this program. SIGTERM acts like Ctrl-C."""

    def __init__(
        self, command: str, document: BaseModel, output_dir: Path, *, module: str = "finetune_hub.engine"
    ) -> None:
        self._is_interrupted = False
        self._handlers = {number: signal.signal(number, self._interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
        output_dir.mkdir(parents=True, exist_ok=True)
        file = output_dir / f"{command}.json"
        file.write_text(document.model_dump_json(indent=2), encoding="utf-8")
        self._output_dir = output_dir
        earlier = output_dir / EVENTS_FILE  # Of an earlier part of the run.
        self._offset = earlier.stat().st_size if earlier.exists() else 0
        self.log = output_dir / LOG_FILE
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, command, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.exit_status: int | None = None
        self.peak_rss_bytes = 0

    def follow(self) -> Iterator[EngineEvent]:
        """Yield its events as they occur, until it has ended.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, once the events so far were yielded, so that none is lost.
        """
        while self.exit_status is None:
            self._look_whether_it_ended()
            yield from self._new_events()
            if self.exit_status is not None:
                for number, handler in self._handlers.items():
                    signal.signal(number, handler)
            if self._is_interrupted:
                self._is_interrupted = False
                raise KeyboardInterrupt
            if self.exit_status is None:
                time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ask it to stop. A trainer finishes its step and writes a checkpoint; `follow` continues until then."""
        if self.exit_status is None:
            signal_group(self._process.pid, signal.SIGTERM)

    def last_words(self) -> str:
        """Return the end of its output, which excludes events."""
        return "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._is_interrupted = True

    def _look_whether_it_ended(self) -> None:
        pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
        if pid:
            self.exit_status = self._process.returncode = os.waitstatus_to_exitcode(status)
            self.peak_rss_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    def _new_events(self) -> list[EngineEvent]:
        events, self._offset = read_events(self._output_dir, self._offset)
        return events
