"""The README stays a front door, and what it and the guides say of files and commands is so."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

from finetune_hub.cli.main import COMMANDS, load_command

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCUMENTS = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
MAX_LINES = 120


def test_it_is_a_front_door() -> None:
    assert len(README.read_text().splitlines()) <= MAX_LINES
    for path in re.findall(r'(?:src|srcset)="([^"]+)"', README.read_text()):
        assert (ROOT / path).stat().st_size < 100_000, path


def test_the_tree_has_every_room_and_no_other() -> None:
    tree = README.read_text().partition("## Source tree")[2].split("```")[1]
    named = set()
    for line in tree.splitlines():
        folder = "finetune_hub/" if line.startswith(" ") else ""
        named |= {folder + name for name in re.findall(r"(\w+/)(?=\s)", re.split(r" {4,}", line.strip())[0] + " ")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rooms = {path.split("/")[0] + "/" for path in tracked if "/" in path and not path.startswith(".")}
    rooms |= {"/".join(path.split("/")[:2]) + "/" for path in tracked if re.match(r"finetune_hub/\w+/", path)}
    assert named == rooms


def test_every_command_that_is_named_exists() -> None:
    lines = [
        line
        for path in DOCUMENTS
        for code in codes_of(path)
        for line in re.findall(r"finetune-hub ([a-z][^\n|>;&)]*)", code)
    ]
    assert len(lines) > 30
    for line in lines:
        check_command(line)


def codes_of(path: Path) -> Iterator[str]:
    """The code in the document: blocks, and marks in the text."""
    for token in MarkdownIt().enable("table").parse(path.read_text()):
        yield from (
            part.content for part in [token, *(token.children or [])] if "code" in part.type or part.type == "fence"
        )


def check_command(line: str) -> None:
    """That the command line has the command, and the command its options."""
    words = [word.strip("[]") for word in shlex.split(line, comments=True)]
    assert words[0] in COMMANDS, line
    command = load_command(words[0])
    if hasattr(command, "commands") and len(words) > 1:
        assert words[1] in command.commands, line
        command = command.commands[words[1]]
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= {*known, "--help"}, line
