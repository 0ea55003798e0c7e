"""Runs one attempt's commands, detached from the worker, and enforces its lease: the only part that may kill a trainer.

    python -I supervisor.py ATTEMPT_FOLDER

It imports the standard library alone, knows no database, and outlives the worker that started it. The two talk
through small files in the attempt's folder, each replaced atomically:

    commands.json     worker → supervisor   the commands, run in turn; the first that fails ends the attempt. One with
                                            `--wait` is started beside the one before it, loads its libraries, and
                                            gets a line on its standard input when its turn comes
    lease.json        worker → supervisor   {"deadline": boot clock in seconds, "stop": bool, "grace": seconds}
    supervisor.json   supervisor → worker   {"pid", "start_time"}: how a restarted worker finds it again
    exit.json         supervisor → worker   {"status", "reason", "oom_kills"}: written last

When the deadline passes, because the worker died, the database is gone or the lease was lost, the trainer is killed
(P3): before its lease can be given to anybody else. When the supervisor itself is killed, the kernel kills the trainer.
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
    """Seconds since boot, sleep included: no clock change and no suspend can stretch a lease."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def start_time_of(pid: int) -> str | None:
    """What tells a process from a later one with the same pid; None when there is none, or only its zombie."""
    if not Path("/proc").is_dir():
        shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return shown.stdout.strip() or None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Replace the file whole."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(document))
    partial.replace(path)


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory since boot; 0 where it does not say."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))


def become_trainer() -> None:
    """In the child: hear the signals that the supervisor ignores, and be killed when the supervisor dies."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def supervise(folder: Path) -> dict[str, Any]:
    """Run the commands; what `exit.json` will hold."""
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
    """Let a command do its work under the lease. Returns its exit status (negative: a signal), and why it was ended."""
    reason, stop_by = None, None
    if child.stdin:
        try:
            child.stdin.write(b"Go.\n")
            child.stdin.close()
        except BrokenPipeError:
            pass  # It is dead, and its exit status says how.
    while child.poll() is None:
        lease = json.loads((folder / "lease.json").read_text())
        now = boot_clock()
        if now >= lease["deadline"]:
            reason = "lease_ended"
        elif stop_by is not None and now >= stop_by:
            reason = "grace_ended"
        elif lease["stop"] and stop_by is None:
            stop_by = now + lease["grace"]
            os.killpg(child.pid, signal.SIGTERM)
        if reason:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            break
        time.sleep(POLL_SECONDS)
    try:
        os.killpg(child.pid, signal.SIGKILL)  # Whatever the command left behind in its group.
    except ProcessLookupError:
        pass
    if stop_by is not None and reason is None:
        reason = "stopped"
    return child.returncode, reason


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
