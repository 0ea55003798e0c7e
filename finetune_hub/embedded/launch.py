"""Exec another program that ends when its parent ends.

It runs as a script between fork and exec, because `preexec_fn` would run Python in a fork of a program that may have
threads. The order matters: changing the user clears PR_SET_PDEATHSIG, so the signal is set last, and a parent that
died before that is detected by its pid.

    launch.py PARENT_PID DEATH_SIGNAL UID GID PROGRAM [ARGUMENT…]         UID -1: keep the user
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    parent_pid, death_signal, uid, gid = (int(argument) for argument in arguments[:4])
    program = arguments[4:]
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and exec would pass that on.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent_pid:
        sys.exit(f"The parent (pid {parent_pid}) ended before {program[0]} could start.")
    os.execv(program[0], program)  # noqa: S606 (the program comes from our own supervisor)


if __name__ == "__main__":
    main(sys.argv[1:])
