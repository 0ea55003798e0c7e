"""Run one attempt's commands, detached from the worker, and enforce its lease: the only part that may kill a trainer.

    python -I supervisor.py ATTEMPT_FOLDER

It only imports the standard library, does not use the database, and outlives the worker that started it. The two
communicate through small files in the attempt's folder, each replaced atomically:

    commands.json     worker → supervisor   the commands, run one after another; the first failure ends the attempt. One
                                            with `--wait` is started together with the one before it, loads its
                                            libraries, and gets a line on its standard input when it may continue
    lease.json        worker → supervisor   {"deadline": boot clock in seconds, "stop": bool, "grace": seconds}
    supervisor.json   supervisor → worker   {"pid", "start_time"}: how a restarted worker finds it again
    exit.json         supervisor → worker   {"status", "reason", "oom_kills"}: written last

When the deadline passes, because the worker died, the database is gone or the lease was lost, the trainer is killed
(P3) before another worker can get its lease. When the supervisor itself is killed, the kernel kills the trainer.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.1
WAIT = "--wait"
PR_SET_PDEATHSIG = 1
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)


def boot_clock() -> float:
    """Return seconds since boot, including sleep, so that no clock change or suspend can extend a lease."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def start_time_of(pid: int) -> str | None:
    """Return what tells a process from a later one with the same pid; None: it is gone or a zombie."""
    if not Path("/proc").is_dir():
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return shown.stdout.strip() or None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Replace the file atomically."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document))
    partial.replace(path)


def oom_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory since boot; 0 if unknown."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))


def become_trainer() -> None:
    """Set up the child: handle the signals that the supervisor ignores, and die with the supervisor."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def supervise(folder: Path) -> dict[str, Any]:
    """Run the commands and return the content of `exit.json`."""
    commands: list[list[str]] = json.loads((folder / "commands.json").read_text())
    kills_before = oom_kills()
    waiting: subprocess.Popen[bytes] | None = None
    try:
        for command, following in zip_longest(commands, commands[1:]):
            child, waiting = waiting or start(folder, command), None
            if following and WAIT in following:
                waiting = start(folder, following)
            status, reason = follow(folder, child)
            if status != 0 or reason:
                break
    finally:
        if waiting:
            waiting.kill()
            waiting.communicate()
    return {"status": status, "reason": reason, "oom_kills": oom_kills() - kills_before}


def start(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    with (folder / "engine.log").open("ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE if WAIT in command else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,
            preexec_fn=become_trainer,
        )


def follow(folder: Path, child: subprocess.Popen[bytes]) -> tuple[int, str | None]:
    """Let a command run under the lease. Returns its exit status (negative: a signal), and why we ended it, if so."""
    reason, stop_by = None, None
    if child.stdin:
        try:
            child.stdin.write(b"Go.\n")
            child.stdin.close()
        except BrokenPipeError:
            pass  # It is dead; its exit status says why.
    while not has_ended(child):
        lease = json.loads((folder / "lease.json").read_text())
        now = boot_clock()
        if now >= lease["deadline"]:
            reason = "lease_ended"
        elif stop_by is not None and now >= stop_by:
            reason = "grace_ended"
        elif lease["stop"] and stop_by is None:
            stop_by = now + lease["grace"]
            signal_group(child, signal.SIGTERM)
        if reason:
            break
        time.sleep(POLL_SECONDS)
    signal_group(child, signal.SIGKILL)  # Also processes that the command left behind in its group.
    child.wait()
    if stop_by is not None and reason is None:
        reason = "stopped"
    return child.returncode, reason


def has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Return whether the child has ended. It is not reaped, so that its pid, which numbers its group, stays its own."""
    if not hasattr(os, "waitid"):  # macOS, before Python 3.13.
        return child.poll() is not None
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the group of a child that is not reaped yet."""
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        pass  # None of them is left; macOS refuses where only the ended child is.


def main() -> None:
    folder = Path(sys.argv[1])
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    with (folder / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # Another supervisor has this attempt.
        if (folder / "exit.json").exists():
            return
        write_json(folder / "supervisor.json", {"pid": os.getpid(), "start_time": start_time_of(os.getpid())})
        write_json(folder / "exit.json", supervise(folder))


if __name__ == "__main__":
    main()
