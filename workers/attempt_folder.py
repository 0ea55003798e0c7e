"""The folder of one attempt on its worker: its lease, its processes, and the files shared with the supervisor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings

from finetune_hub.jobs.worker_port import Lease
from finetune_hub.machine.event_file import read_events
from finetune_hub.machine.processes import ProcessIdentity
from finetune_hub.spec.events import EngineEvent, Failure
from finetune_hub.spec.problem import Failed
from workers import supervisor


@dataclass(frozen=True)
class ExitReport:
    """How the attempt's commands ended; `status` is negative for a signal. See `supervisor`."""

    status: int
    reason: str | None
    oom_kills: int


@dataclass(frozen=True)
class AttemptFolder:
    path: Path

    @classmethod
    def create(cls, root: Path, lease: Lease, *, before: float) -> AttemptFolder:
        """Create a folder that stores the lease, so that a restarted worker can continue with it.

        Args:
            before: the boot clock from before the claim was sent; see `grant`.
        """
        folder = cls(root / f"{lease.attempt_id}-{lease.token.hex[:8]}")
        folder.path.mkdir(mode=0o700, parents=True)
        try:
            folder.grant(before, stop=False)
            document = {"attempt_id": lease.attempt_id, "token": str(lease.token), "job_id": lease.job_id}
            supervisor.write_json(folder.path / "attempt.json", document)
        except OSError:
            folder.remove()
            raise
        return folder

    @classmethod
    def found_in(cls, root: Path) -> list[AttemptFolder]:
        """Return the folders left from before this worker restarted."""
        return [cls(path.parent) for path in sorted(root.glob("*/attempt.json"))]

    @property
    def lease(self) -> Lease:
        document = json.loads((self.path / "attempt.json").read_text())
        return Lease(document["attempt_id"], UUID(document["token"]), document.get("job_id", ""))

    @property
    def output(self) -> Path:
        """Where the engine writes."""
        return self.path / "output"

    @property
    def verification(self) -> Path:
        """Where the separate process that reloads a trained adapter writes."""
        return self.path / "verification"

    @property
    def supervisor_pid(self) -> int | None:
        """The supervisor's process, running or not; None: it was not started."""
        document = self._read("supervisor.json")
        return int(document["pid"]) if document else None

    @property
    def was_started(self) -> bool:
        return (self.path / "supervisor.json").exists()

    # ---- to the supervisor

    def grant(self, before: float, *, stop: bool) -> None:
        """Let the commands run for the length of a lease; with `stop`, ask them to end.

        Args:
            before: the boot clock from *before* the renewal was sent, so that our deadline is never later than the
                database's.
        """
        self._write_lease(before + settings.LEASE.total_seconds(), stop)

    def revoke(self) -> None:
        """Make the supervisor kill the commands at once."""
        self._write_lease(0.0, stop=True)

    def _write_lease(self, deadline: float, stop: bool) -> None:
        document = {"deadline": deadline, "stop": stop, "grace": settings.STOP_GRACE.total_seconds()}
        supervisor.write_json(self.path / "lease.json", document)

    def start_supervisor(self, commands: list[list[str]], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start the commands under a detached supervisor, which outlives this process."""
        self.output.mkdir(exist_ok=True)
        self.verification.mkdir(exist_ok=True)
        (self.path / "commands.json").write_text(json.dumps(commands))
        return subprocess.Popen(
            [sys.executable, "-I", supervisor.__file__, str(self.path)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    # ---- from the supervisor

    def supervisor_is_alive(self) -> bool:
        return bool(self._supervisor and self._supervisor.is_alive())

    @property
    def _supervisor(self) -> ProcessIdentity | None:
        document = self._read("supervisor.json")
        return ProcessIdentity(document["pid"], document["start_time"]) if document else None

    def exit_report(self) -> ExitReport | None:
        document = self._read("exit.json")
        return ExitReport(**document) if document else None

    def read_events(self, offset: int) -> tuple[list[EngineEvent], int]:
        """Return the complete event lines from a byte offset on, and the offset after them."""
        return read_events(self.output, offset)

    def read_log_tail(self, max_bytes: int = 64_000) -> str:
        """Return the last part of the commands' output, from the beginning of a line."""
        try:
            with (self.path / "engine.log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - max_bytes))
                if size > max_bytes:
                    file.readline(max_bytes)
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def result(self) -> dict[str, Any]:
        """Return what the engine wrote on success."""
        return self._existing(self.output / "result.json")

    def verification_result(self) -> dict[str, Any]:
        """Return how the reloaded adapter compared."""
        return self._existing(self.verification / "result.json")

    def failed(self) -> Failed | None:
        """Return the engine's own failure, if it could report one."""
        for output in (self.verification, self.output):
            for event in reversed(read_events(output, 0)[0]):
                if isinstance(event, Failure):
                    return event.failed
        return None

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def kill_supervisor(self) -> None:
        """Kill a supervisor that does not react to `revoke`; its trainer dies with it."""
        if self._supervisor:
            self._supervisor.send(signal.SIGKILL)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return self._existing(self.path / name)
        except FileNotFoundError:
            return None

    @staticmethod
    def _existing(path: Path) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(path.read_text())
        return document
