"""Supervised child processes: started in order, restarted when they die, stopped in reverse order.

The supervisor has no thread. Its owner calls `tend()` a few times per second from the thread that started the children,
because PR_SET_PDEATHSIG fires when that *thread* ends. Children get their own session, so that Ctrl-C in the terminal
only reaches the owner, which stops them in order. Signals go only to processes that we started, not to groups, so
detached processes such as a trainer's supervisor keep running.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune_hub.embedded import launch
from finetune_hub.embedded.errors import ProgramFailed
from finetune_hub.embedded.folders import Account
from finetune_hub.machine.processes import ProcessIdentity, identify

LOG_MAX_BYTES = 10 * 1024**2
LOGS_KEPT = 3
BACK_OFF_FIRST_SECONDS = 0.5
BACK_OFF_MAX_SECONDS = 30.0
# A child that ran this long was healthy: the backoff starts again.
HEALTHY_AFTER_SECONDS = 60.0
POLL_SECONDS = 0.05

State = Literal["starting", "ready", "restarting", "stopped"]


@dataclass(frozen=True)
class Program:
    """A program to run as a child, and how to detect that it is ready.

    `is_ready` gets the child's output since its start. `prepare` runs before every start.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    is_ready: Callable[[str], bool]
    folder: Path = Path("/")
    account: Account | None = None
    prepare: Callable[[], None] = lambda: None
    stop_signal: signal.Signals = signal.SIGTERM
    force_signal: signal.Signals = signal.SIGKILL
    stop_seconds: float = 10.0
    ready_seconds: float = 60.0
    # How often it may be started until it is ready for the first time.
    start_attempts: int = 1


@dataclass
class Child:
    """A program and its current process."""

    program: Program
    log: Path
    state: State = "stopped"
    since: float = 0.0  # unix time of the last change of state
    restarts: int = 0
    seconds_to_ready: float = 0.0
    identity: ProcessIdentity | None = None
    _process: subprocess.Popen[bytes] | None = None
    _log_start_bytes: int = 0
    _deaths_in_a_row: int = 0
    _restart_at: float = 0.0  # monotonic seconds

    def start(self) -> None:
        """Start the process, as `program.account` if given. Its output is appended to the log."""
        program = self.program
        program.prepare()
        uid, gid = (program.account.uid, program.account.gid) if program.account else (-1, -1)
        launcher = [sys.executable, "-I", "-S", launch.__file__]
        facts = [str(fact) for fact in (os.getpid(), int(program.stop_signal), uid, gid)]
        with self.log.open("ab") as stream:
            self._log_start_bytes = stream.tell()
            self._process = subprocess.Popen(
                [*launcher, *facts, *program.argv],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(program.environment),
                cwd=program.folder,
                umask=0o077,
                start_new_session=True,
            )
        self.identity = identify(self._process.pid)
        self._enter("starting")

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while it runs."""
        return self._process.poll() if self._process else 0

    def output(self) -> str:
        """Return the process's output since its start."""
        with self.log.open("rb") as stream:
            stream.seek(self._log_start_bytes)
            return stream.read().decode(errors="replace")

    def note_death(self, now: float) -> None:
        """Schedule the restart: 0.5 s after the first death, doubled after each further one in a row."""
        if time.time() - self.since > HEALTHY_AFTER_SECONDS:
            self._deaths_in_a_row = 0
        wait_seconds = min(BACK_OFF_FIRST_SECONDS * 2**self._deaths_in_a_row, BACK_OFF_MAX_SECONDS)
        self._deaths_in_a_row += 1
        self._restart_at = now + wait_seconds
        self.identity = None
        self._enter("restarting")

    def tend(self, now: float) -> bool:
        """Check once for death, a due restart, and readiness. Returns whether the state changed."""
        before = self.state
        if self.state == "restarting":
            if now >= self._restart_at:
                self.restarts += 1
                try:
                    self.start()
                except OSError:  # No memory or a full disk: a later attempt may succeed.
                    self.note_death(now)
        elif self.state != "stopped" and self.exit_code() is not None:
            self.note_death(now)
        elif self.state == "starting" and self.program.is_ready(self.output()):
            self.seconds_to_ready = time.time() - self.since
            self._enter("ready")
        return self.state != before

    def ask_to_stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(self.program.stop_signal)

    def force_to_stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(self.program.force_signal)

    def stop(self, *, hurry: Callable[[], bool] = lambda: False) -> None:
        """Ask the process to stop and wait; force it after the grace period or if `hurry()`. Returns after its end."""
        self.ask_to_stop()
        deadline = time.monotonic() + self.program.stop_seconds
        while self.exit_code() is None and time.monotonic() < deadline and not hurry():
            time.sleep(POLL_SECONDS)
        self.force_to_stop()
        if self._process:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:  # A force signal other than SIGKILL was not enough.
                self._process.kill()
                self._process.wait()
        self.identity = None
        self._enter("stopped")

    def run_to_end(self, *, give_up: Callable[[], bool] = lambda: False) -> None:
        """Run a program that ends by itself, such as a migration. Stops it if `give_up()`.

        Raises:
            ProgramFailed: it ended with a code other than 0.
        """
        self.start()
        while (exit_code := self.exit_code()) is None and not give_up():
            time.sleep(POLL_SECONDS)
        if exit_code:
            raise self.failure(f"it ended with code {exit_code}")
        self.stop()

    def failure(self, reason: str) -> ProgramFailed:
        """Create the error for a child that did not become ready, with the end of its log."""
        last_words = " / ".join(self.output().strip().splitlines()[-3:]) or "nothing"
        return ProgramFailed(name=self.program.name, reason=reason, last_words=last_words, log=self.log)

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = time.time()


class Supervisor:
    """Supervisor that keeps children running until `stop`."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.children: list[Child] = []
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self, program: Program) -> Child:
        """Start a program, without waiting until it is ready."""
        log = self.logs / f"{program.name}.log"
        rotate(log)
        child = Child(program, log)
        self.children.append(child)
        child.start()
        self._tell_guard()
        return child

    def wait_until_ready(self, child: Child, *, give_up: Callable[[], bool] = lambda: False) -> None:
        """Tend all children until this one is ready or `give_up()`.

        Raises:
            ProgramFailed: it died too often or took too long.
        """
        deadline = time.monotonic() + child.program.ready_seconds
        attempts = 1
        while child.state != "ready" and not give_up():
            exit_code = child.exit_code()
            if exit_code is not None and child.state == "starting":
                if attempts >= child.program.start_attempts:
                    raise child.failure(f"it ended with code {exit_code}")
                attempts += 1
            if time.monotonic() > deadline:
                raise child.failure(f"it was not ready after {child.program.ready_seconds:.0f} seconds")
            self.tend()
            time.sleep(POLL_SECONDS)

    def tend(self) -> bool:
        """Check every child once. Returns whether a state changed."""
        now = time.monotonic()
        changes = [child.tend(now) for child in self.children]
        if any(changes) or (self._guard and self._guard.poll() is not None):
            self._tell_guard()
        return any(changes)

    def stop(
        self, *, hurry: Callable[[], bool] = lambda: False, report: Callable[[Child], None] = lambda _: None
    ) -> None:
        """Stop all children, the last started first, or all at once if `hurry()`. Returns when they have ended."""
        for child in reversed(self.children):
            if hurry():
                for other in self.children:
                    other.force_to_stop()
            child.stop(hurry=hurry)
            self._tell_guard()
            report(child)
        if self._guard and self._guard.stdin:
            self._guard.stdin.close()
            self._guard.wait()
            self._guard = None

    def _tell_guard(self) -> None:
        """Send the guard the list of living children. Starts a guard if there is none or it was killed."""
        if self._guard is None or self._guard.poll() is not None:
            if self._guard and self._guard.stdin:
                self._guard.stdin.close()
            with (self.logs / "guard.log").open("ab") as log:
                self._guard = subprocess.Popen(
                    [sys.executable, "-P", "-m", "finetune_hub.embedded.guard"],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    bufsize=0,
                    start_new_session=True,
                )
        children = [
            (child.identity.pid, child.identity.start_time, child.program.stop_signal, child.program.force_signal)
            for child in self.children
            if child.identity
        ]
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(json.dumps(children).encode() + b"\n")
        except BrokenPipeError:
            pass  # The guard was just killed; the next check starts another.


def rotate(log: Path) -> None:
    """Rotate a log that has grown too large (.1 is the newest old one), and create a private, empty one."""
    if log.exists() and log.stat().st_size > LOG_MAX_BYTES:
        for number in range(LOGS_KEPT - 1, 0, -1):
            older = log.with_name(f"{log.name}.{number}")
            if older.exists():
                older.replace(log.with_name(f"{log.name}.{number + 1}"))
        log.replace(log.with_name(f"{log.name}.1"))
    log.touch(mode=0o600)
