"""`make compare-with`: each side runs its own product under this checkout's benchmarks, whatever is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.compare import Benchmark, Side, make_sides, measure, table

# Reads the product here and in a fresh process, as the hub's parts are started; the second figure is not in the commit.
SPEED = """
import json, subprocess, sys
import finetune_hub.speed as product
ask = [sys.executable, "-P", "-c", "import finetune_hub.speed; print(finetune_hub.speed.SPEED)"]
inner = float(subprocess.run(ask, capture_output=True, check=True).stdout)
figures = {"tokens/s": [product.SPEED], "in a part: tokens/s": [inner]}
if hasattr(product, "LATER"):
    figures["later: ms"] = [product.LATER]
open(sys.argv[-1], "w").write(json.dumps(figures))
"""
FAILS_ON_THE_COMMIT = """
import sys
import finetune_hub.speed as product
open(sys.argv[-1], "w").write('{"seconds": [%s]}' % product.LATER)
"""
# As the hub's benchmark does, it stops what it has started when it is interrupted.
SLOW = """
import tempfile, time
tempfile.mkdtemp()
file = open({file!r}, "a", buffering=1)
try:
    file.write("started, ")
    time.sleep(60)
finally:
    file.write("stopped, ")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository whose `finetune_hub` is not the installed one; its benchmarks came after its only commit."""
    root = tmp_path / "checkout"
    (root / "finetune_hub").mkdir(parents=True)
    (root / "finetune_hub" / "__init__.py").touch()
    product = root / "finetune_hub" / "speed.py"
    product.write_text("SPEED = 2.0\n")
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "First"]):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    product.write_text("SPEED = 3.0\nLATER = 5.0\n")
    (root / "benchmarks").mkdir()
    (root / "benchmarks" / "speed.py").write_text(SPEED)
    (root / "benchmarks" / "new.py").write_text(FAILS_ON_THE_COMMIT)
    return root


def test_each_side_runs_its_own_product_and_what_one_lacks_is_said(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    folder.mkdir()
    ours, theirs = sides = make_sides(checkout, "HEAD", folder)
    benchmarks = [Benchmark("fake", "benchmarks.speed"), Benchmark("new", "benchmarks.new")]
    assert measure(sides, benchmarks, rounds=2, seconds=60, folder=folder) == 2
    lines = table(ours, theirs)
    assert "| fake, tokens/s | 3 | 2 | 1.50x | 1.50–1.50, better |" in lines
    assert "| fake, in a part: tokens/s | 3 | 2 | 1.50x | 1.50–1.50, better |" in lines
    assert "| fake, later: ms | 5 | – |  | on one side only |" in lines
    assert lines[-1].startswith("| new | ran | AttributeError: ")
    assert not (checkout / "finetune_hub" / "__pycache__").exists(), "the checkout is left as it was"


def test_time_that_is_up_ends_a_benchmark_with_what_it_started_and_the_rounds(checkout: Path, tmp_path: Path) -> None:
    child = tmp_path / "child"
    (checkout / "benchmarks" / "slow.py").write_text(SLOW.format(file=str(child)))
    folder = tmp_path / "compared"
    folder.mkdir()
    sides = make_sides(checkout, "HEAD", folder)
    assert measure(sides, [Benchmark("slow", "benchmarks.slow")], rounds=2, seconds=0.01, folder=folder) == 1
    assert [side.failures["slow"] for side in sides] == ["no time was left for it"] * 2
    assert table(*sides)[-1] == "| slow | no time was left for it | no time was left for it | | not compared |"
    assert len(list((folder / "tmp").iterdir())) == 2, "what they leave lies with us, who clear it away"
    assert child.read_text() == "started, stopped, started, stopped, "


def test_an_unknown_commit_is_a_sentence(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="There is no commit 'nowhere' here"):
        make_sides(checkout, "nowhere", tmp_path)


def test_a_difference_smaller_than_its_spread_is_noise() -> None:
    ours = Side("ours", Path(), {"whole: s": [9.0, 11.0], "first: s": [9.0, 9.2], "only: tokens/s": [1.0]})
    theirs = Side("theirs", Path(), {"whole: s": [10.0, 10.0], "first: s": [10.0, 10.0], "only: tokens/s": [2.0]})
    assert table(ours, theirs)[2:] == [
        "| whole: s | 10 | 10 | 1.00x | 0.90–1.10, within noise |",
        "| first: s | 9.1 | 10 | 0.91x | 0.90–0.92, better |",
        "| only: tokens/s | 1 | 2 | 0.50x | one round |",
    ]
