"""The table of a hub's memory at rest counts every process of every part, once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.resting import memory_of_hub, pss_bytes

MIB = 2**20
# A parent with one child; each holds so many MiB of its own, and says when.
PART = """
import subprocess, sys
mib = int(sys.argv[1])
held = bytearray(b"x" * (mib << 20))
child = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(mib), ""], stdin=0) if sys.argv[2] else None
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def part() -> Iterator[int]:
    """The process of a part that holds 40 MiB, and whose child holds 40 more."""
    process = subprocess.Popen(
        [sys.executable, "-c", PART, "40", PART], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    yield process.pid
    process.stdin.close()
    process.stdout.read()  # Until the child has closed it too.
    process.wait()
    process.stdout.close()


def test_a_part_has_its_descendants_memory_and_up_has_the_rest(part: int) -> None:
    parts = [{"name": "web", "identity": {"pid": part}}, {"name": "gone", "identity": None}]
    memory = memory_of_hub({"identity": {"pid": os.getpid()}, "parts": parts})
    assert list(memory) == ["up", "web"]
    assert 80 * MIB < memory["web"] < 80 * MIB + 40 * MIB
    assert memory["up"] >= 10 * MIB, "this process is `up`"


def test_a_part_below_up_is_counted_once(part: int) -> None:
    """The part's own process as `up`, and its child as the only part."""
    child = int(Path(f"/proc/{part}/task/{part}/children").read_text())
    memory = memory_of_hub({"identity": {"pid": part}, "parts": [{"name": "web", "identity": {"pid": child}}]})
    assert 40 * MIB < memory["web"] < 60 * MIB
    assert 40 * MIB < memory["up"] < 60 * MIB


def test_a_process_that_has_ended_holds_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert pss_bytes(ended.pid) == 0
