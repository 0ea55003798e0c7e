"""A pytest plugin: which tests every run has, in which order, and where it spent its time.

A test marked `full` is too long for every run: `make verify-full` has it, by `--full`. What starts whole processes goes
first, so that no process of xdist works on alone at the end. Just before pytest's last line:

    folder        seconds  budget
    tests/engine      240     300

The seconds of a folder are those of its tests' set-up, call and teardown, summed over all processes. CONTRIBUTING.md
sets the budgets; a folder above its own is marked, and fails nothing: machines differ.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"
BUDGET_ROW = re.compile(r"^\| `(tests/\w*)` \| (\d+) \|", flags=re.MULTILINE)
SHOWN_ABOVE_SECONDS = 20.0  # A run of a few tests says nothing of a folder.


def budgets() -> dict[str, int]:
    """Seconds by folder, as CONTRIBUTING.md has them."""
    return {folder: int(seconds) for folder, seconds in BUDGET_ROW.findall(CONTRIBUTING.read_text())}


def folder_of(nodeid: str) -> str:
    """`tests/engine` for a test anywhere below it; `tests/` for one in no folder of its own."""
    first, _, rest = nodeid.partition("::")[0].removeprefix("tests/").partition("/")
    return f"tests/{first}" if rest else "tests/"


class Ledger:
    """Adds up what each report says of its folder."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[folder_of(report.nodeid)] += report.duration

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
        yield  # After pytest's own summary, so that nothing but its last line follows.
        if sum(self.seconds.values()) > SHOWN_ABOVE_SECONDS:
            terminalreporter.write_sep("=", "seconds by folder, over all processes")
            for line in table(self.seconds, budgets()):
                terminalreporter.write_line(line)


def table(seconds: Counter[str], budget: dict[str, int]) -> list[str]:
    """One line a folder, the longest first, and their sum."""
    rows = [(folder, spent, budget.get(folder)) for folder, spent in seconds.most_common()]
    rows.append(("together", seconds.total(), sum(budget.values())))
    width = max(len(folder) for folder, _, _ in rows)
    lines = [f"{'folder':{width}}  seconds  budget"]
    for folder, spent, allowed in rows:
        note = "  no budget in CONTRIBUTING.md" if allowed is None else "  over its budget" if spent > allowed else ""
        lines.append(f"{folder:{width}}  {spent:7.0f}  {'' if allowed is None else allowed:>6}{note}")
    return lines


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run what is too long for every run, and nothing else")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = [item for item in items if (item.get_closest_marker("full") is not None) == config.getoption("full")]
    if len(wanted) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in set(wanted)])
    items[:] = sorted(wanted, key=lambda item: item.get_closest_marker("slow") is None)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # Under xdist the controller hears of all tests.
        config.pluginmanager.register(Ledger(), "budgets")
