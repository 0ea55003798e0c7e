"""Each folder of tests has a budget in CONTRIBUTING.md, and a run says where it is over."""

from __future__ import annotations

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
