"""Shared by commands that act on this machine: the option --home and the check of the operating system."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style

# Python has these modules on Linux and macOS only. They provide locks, accounts and process limits.
UNIX_MODULES = ("fcntl", "pwd", "resource")

Home = Annotated[
    Path | None,
    typer.Option(help="Folder of the hub's data. Default: FINETUNE_HUB_HOME, or ~/.finetune-hub.", show_default=False),
]


def require_unix(command: str) -> None:
    """Check that the command works on this operating system.

    Raises:
        CommandError: modules are missing that the hub's processes need, as on Windows.
    """
    missing = []
    for name in UNIX_MODULES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            missing.append(name)
    if missing:
        raise style.CommandError(
            f"`finetune-hub {command}` needs Linux or macOS: Python has no {', '.join(missing)} on this system.",
            "On Windows, run it inside WSL 2 or use a hub on another machine: `finetune-hub login --url URL`.",
        )
