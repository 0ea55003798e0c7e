"""Each folder of tests has a budget in CONTRIBUTING.md, and a run says where it is over."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.budgets import budgets, folder_of, table


def test_every_folder_has_its_budget() -> None:
    tests = Path(__file__).parent
    folders = {folder_of(str(path.relative_to(tests.parent))) for path in tests.rglob("test_*.py")}
    assert folders == budgets().keys()


def test_the_table_marks_what_is_over() -> None:
    lines = table(Counter({"tests/engine": 310.4, "tests/new": 2.0}), {"tests/engine": 300, "tests/cli": 90})
    assert [line.split() for line in lines] == [
        ["folder", "seconds", "budget"],
        ["tests/engine", "310", "300", "over", "its", "budget"],
        ["tests/new", "2", "no", "budget", "in", "CONTRIBUTING.md"],
        ["together", "312", "390"],
    ]


def test_the_tests_of_one_group_share_a_process(tmp_path: Path) -> None:
    """One hub serves all tests of its group: pytest-xdist must honour the group, which not every pytest lets it."""
    processes = tmp_path / "processes"
    (tmp_path / "test_groups.py").write_text(
        f"""
import os, pytest

@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("group", [pytest.param(group, marks=pytest.mark.xdist_group(group)) for group in "ab"])
def test_one(number, group):
    with open({str(processes)!r}, "a") as file:
        file.write(f"{{group}} {{os.getpid()}}\\n")
"""
    )
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadgroup", "-p", "no:django", str(tmp_path)]
    subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert len(processes.read_text().split("\n")) == 9
    assert sorted(line.split()[0] for line in set(processes.read_text().splitlines())) == ["a", "b"]
