"""Homes and supervisors for tests with real processes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finetune_hub.embedded.children import Supervisor


@pytest.fixture
def home() -> Iterator[Path]:
    """A short folder that another account can pass through; pytest's tmp_path is closed to others, and long."""
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def supervisor(home: Path) -> Iterator[Supervisor]:
    """A supervisor that logs to `home`; what it started is stopped after the test."""
    supervisor = Supervisor(home)
    yield supervisor
    supervisor.stop(hurry=lambda: True)


PATIENCE_SECONDS = 90.0  # What is waited for comes at once, but for a machine that is busy with other things.


def wait_for(condition: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Look many times a second until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not true after {seconds} s"
        time.sleep(0.02)


def tend_until(supervisor: Supervisor, condition: Callable[[], object]) -> None:
    """Let the supervisor work until the condition holds."""

    def look() -> object:
        supervisor.tend()
        return condition()

    wait_for(look)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
