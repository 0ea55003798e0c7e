"""The guard: stops the children of `up` if `up` itself is killed.

It reads JSON lines from its parent, each with all living children as [pid, start time, stop signal, force signal].
When the pipe closes, the parent is gone: the guard asks every child on the list to stop, and forces it after a grace
period. On Linux the kernel has already signalled the children (PR_SET_PDEATHSIG); macOS only has the guard.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterable

from finetune_hub.machine.processes import ProcessIdentity

GRACE_SECONDS = 5.0


def main(lines: Iterable[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    children: list[list[str]] = []
    for line in lines:
        children = json.loads(line)
    stop_all([(ProcessIdentity(int(pid), start), int(stop), int(force)) for pid, start, stop, force in children])


def stop_all(children: list[tuple[ProcessIdentity, int, int]]) -> None:
    """Ask all to stop, the last started first, then force those that still run after the grace period."""
    for identity, stop_signal, _ in reversed(children):
        identity.send(stop_signal)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        if not any(identity.is_alive() for identity, _, _ in children):
            return
        time.sleep(0.1)
    for identity, _, force_signal in children:
        identity.send(force_signal)


if __name__ == "__main__":
    main(sys.stdin)
