"""The benchmark for GPUs runs from end to end, here on a CPU and a tiny model; its figures mean nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("bases", [["nf4"], pytest.param(["bfloat16", "nf4"], marks=pytest.mark.full)], ids=str)
def test_the_gpu_benchmark_prints_a_table_for_each_base(bases: list[str]) -> None:
    options = [
        "--bases",
        *bases,
        "--tiny",
        "--device",
        "cpu",
        "--rounds",
        "1",
        "--count",
        "12",
        "--micro-batch-size",
        "4",
        "--threads",
        "1",
    ]
    command = [sys.executable, "-m", "benchmarks.gpu", *options]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tables = [line for line in printed.splitlines() if line.startswith("|")]
    assert [line for line in tables if "ours" in line] == [f"| {base} | ours | peer | ratio |" for base in bases]
    assert sum(line.startswith("| tokens/s |") for line in tables) == len(bases)
