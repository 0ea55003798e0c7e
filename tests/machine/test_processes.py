"""A signal goes to the process that is meant, or to none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from finetune_hub.machine.processes import signal_group

SLEEPS = "import time; print('began', flush=True); time.sleep(60)"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """The leader of a group of its own."""
    command = [sys.executable, "-c", SLEEPS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def test_a_group_gets_a_signal_until_its_leader_is_reaped(
    child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert signal_group(child.pid, signal.SIGTERM)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert signal_group(child.pid, signal.SIGTERM), "it has ended, and its number is still its own"
    child.wait()
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("whose group is this?"))
    assert not signal_group(child.pid, signal.SIGTERM)


def test_a_group_of_somebody_else_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("this is not ours"))
    assert not signal_group(os.getppid(), signal.SIGTERM)
