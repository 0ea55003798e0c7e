"""The identity of a process: its pid and when it started, because a pid may be reused.

A process that is not our child, or no longer, gets signals through `ProcessIdentity.send` only. A child keeps its pid
until it is reaped: `Popen` signals only children that it has not reaped, and `signal_group` does the same for a group.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProcessIdentity:
    """A process that we started.

    `start_time` is only compared for equality: clock ticks since boot on Linux, the date from `ps` elsewhere.
    """

    pid: int
    start_time: str

    def is_alive(self) -> bool:
        """Return whether exactly this process runs; a zombie does not count."""
        return _start_time(self.pid, zombie_counts=False) == self.start_time

    def send(self, number: int) -> bool:
        """Send a signal to exactly this process. False: it has ended, and no signal was sent."""
        try:
            if sys.platform == "linux":
                # The descriptor keeps the pid from being reused between the check and the signal.
                descriptor = os.pidfd_open(self.pid)
                try:
                    if self.is_alive():
                        signal.pidfd_send_signal(descriptor, number)
                        return True
                finally:
                    os.close(descriptor)
            elif self.is_alive():
                os.kill(self.pid, number)
                return True
        except ProcessLookupError:
            pass
        return False


def identify(pid: int) -> ProcessIdentity | None:
    """Return the identity of the process that has this pid now, including a zombie. None: there is none."""
    start_time = _start_time(pid, zombie_counts=True)
    return ProcessIdentity(pid, start_time) if start_time is not None else None


def signal_group(child_pid: int, number: int) -> bool:
    """Send a signal to the group that a child of ours leads. False: the child was reaped, and no signal was sent.

    After that, its pid, which is also the group's number, may be a stranger's.
    """
    try:
        if hasattr(os, "waitid"):  # Not on macOS before Python 3.13.
            os.waitid(os.P_PID, child_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        os.killpg(child_pid, number)
    except (ChildProcessError, ProcessLookupError, PermissionError):
        return False
    return True


def command_line(pid: int) -> str:
    """Return a process's command line; empty if it has ended."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""
    return _ask_ps(pid, "command=")


def _start_time(pid: int, *, zombie_counts: bool) -> str | None:
    if sys.platform == "linux":
        try:
            # The name in parentheses may itself contain spaces and parentheses, so split at the last one.
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return None
        state, start_ticks = fields[0], fields[19]
        return start_ticks.decode() if zombie_counts or state not in {b"Z", b"X"} else None
    if not zombie_counts and _ask_ps(pid, "state=").startswith("Z"):
        return None
    return _ask_ps(pid, "lstart=") or None


def _ask_ps(pid: int, column: str) -> str:
    answer = subprocess.run(["ps", "-o", column, "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip()
