"""The guard: ends what `up` leaves behind when `up` itself is killed.

It reads lines of JSON from its parent, each the whole list of living children as [pid, start time, stop signal, force
signal]. When the pipe closes, the parent is gone: every child still on the list is asked to stop, and after a grace
forced to. On Linux the children have heard it from the kernel already (PR_SET_PDEATHSIG); macOS has only the guard.
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
    """Ask the last started first, then force what still runs after the grace."""
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
