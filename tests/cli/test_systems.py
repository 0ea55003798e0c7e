"""A system without fcntl, such as Windows: the hub's own commands say so, the client's commands work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune_hub.cli.main import COMMANDS, NEED_UNIX
from finetune_hub.cli.this_machine import UNIX_MODULES
from tests.cli.conftest import RunCommand

WITHOUT_UNIX = f"""
import sys
sys.modules.update(dict.fromkeys({UNIX_MODULES}))  # None: importing it fails, as where it does not exist.
from finetune_hub.cli.main import main
main()
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_UNIX, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["status", "up", "workers invite gpu-7"])
def test_the_hubs_own_commands_say_what_is_missing(command: str) -> None:
    answer = run(*command.split())
    assert answer.returncode == 1
    name = command.removesuffix(" gpu-7")
    assert answer.stderr.splitlines() == [
        f"Error: `finetune-hub {name}` needs Linux or macOS: Python has no fcntl, pwd, resource on this system.",
        "On Windows, run it inside WSL 2 or use a hub on another machine: `finetune-hub login --url URL`.",
    ]


def test_every_other_command_loads_without_them() -> None:
    names = sorted(COMMANDS.keys() - NEED_UNIX)
    code = WITHOUT_UNIX.replace("main()", f"from finetune_hub.cli.main import load_command\nfor name in {names}:")
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}\n    print(load_command(name).name)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == names


def test_the_clients_commands_work_without_them(hub: RunCommand, tmp_path: Path) -> None:
    """In the environment that `hub` has set: its address and a token."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "What is 1 + 1?", "answer": "2"}\n')
    assert run("datasets", "check", rows).returncode == 0
    assert run("datasets", "push", rows, "--name", "sums").returncode == 0
    listed = run("datasets", "list")
    assert "sums" in listed.stdout, listed.stderr
    for command in ("jobs", "adapters", "base-models", "workers"):
        answer = run(command, "list")
        assert (answer.returncode, answer.stderr) == (0, ""), answer.stderr
