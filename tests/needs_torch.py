"""A pytest plugin: where torch is not installed, the tests that need it are left out, and counted.

They are all tests of PLACES, and those marked `needs_torch`. A test that needs torch and says so nowhere fails there:
`make test-python` shows it. Where torch is installed, everything runs.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

# Each imports the engine, or starts it.
PLACES = {"chaos", "cli/test_export.py", "engine", "golden", "gpu", "hosts", "integration", "upgrade"}
MARKER = "needs_torch"

_MARKED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}: runs the engine, or compares with transformers")
    if importlib.util.find_spec("torch") is None:
        config.pluginmanager.register(_LeavesOut(), "leaves-out-tests-that-need-torch")


class _LeavesOut:
    """The hooks, for an environment without torch."""

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Places are not even read: their modules import torch."""
        return True if collection_path in _places() else None

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        marked = [item for item in items if item.get_closest_marker(MARKER)]
        items[:] = [item for item in items if item not in marked]
        config.hook.pytest_deselected(items=marked)
        config.stash[_MARKED] = len(marked)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Under xdist its workers collect, and tell the process that prints."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput[MARKER] = session.config.stash[_MARKED]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        node.config.stash[_MARKED] = getattr(node, "workeroutput", {}).get(MARKER, 0)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        files = [file for place in _places() for file in ([place] if place.is_file() else place.glob("test_*.py"))]
        functions = sum(len(re.findall(r"^def test_", file.read_text(), re.MULTILINE)) for file in files)
        terminalreporter.write_line(
            f"torch is not installed: left out {config.stash.get(_MARKED, 0)} tests marked {MARKER}, "
            f"and the {functions} test functions of {', '.join(sorted(PLACES))}."
        )


def _places() -> list[Path]:
    return [Path(__file__).parent / place for place in PLACES]
