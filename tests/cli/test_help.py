"""`finetune-hub --help` answers at once: it imports no command, and nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from finetune_hub.cli import style
from finetune_hub.cli.main import COMMANDS, load_command

HEAVY = {"celery", "django", "httpx", "psycopg", "rich", "torch", "transformers"}
SNAPSHOT = Path(__file__).with_name("help.txt")


def run(
    *arguments: str, code: str = "from finetune_hub.cli.main import main; main()"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "
        "from finetune_hub.cli.main import main; main()"
    )
    answer = run("--help", code=code)
    assert answer.returncode == 0
    imported = set(answer.stderr.split())
    assert "finetune_hub.cli.main" in imported
    assert {name.partition(".")[0] for name in imported} & HEAVY == set()
    assert not {command.where.partition(":")[0] for command in COMMANDS.values()} & imported


def test_help_lists_the_commands() -> None:
    """After a wanted change: `COLUMNS=80 finetune-hub --help > tests/cli/help.txt`."""
    # The program's name is the script's when it is installed.
    answer = run("--help").stdout.replace("Usage: -c", "Usage: finetune-hub")
    assert answer == SNAPSHOT.read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads(name: str) -> None:
    assert load_command(name).name == name


def test_an_unknown_command_is_a_usage_error() -> None:
    answer = run("upp")
    assert answer.returncode == 2
    assert "No such command 'upp'" in answer.stderr


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    for name in [name for name in sys.modules if name.startswith(("finetune_hub.cli.up", "finetune_hub.embedded"))]:
        monkeypatch.delitem(sys.modules, name)
    load_command.cache_clear()
    with pytest.raises(style.CommandError, match=r"needs the package psycopg.*finetune_hub\[all\]"):
        load_command("up")


def test_version() -> None:
    assert run("--version").stdout.strip() == version("finetune_hub")
