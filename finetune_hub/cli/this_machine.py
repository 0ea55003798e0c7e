"""What the commands that act on this machine share: the option --home, and the systems that they work on."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style

# Python has these on Linux and macOS alone. Locks, accounts and limits of processes come from them.
UNIX_MODULES = ("fcntl", "pwd", "resource")

Home = Annotated[
    Path | None,
    typer.Option(help="Folder of the hub's data. Default: FINETUNE_HUB_HOME, or ~/.finetune-hub.", show_default=False),
]


def require_unix(command: str) -> None:
    """
    Raises:
        CommandError: this system lacks what the hub's own processes need, as Windows does.
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
            "On Windows run it inside WSL 2, or use a hub on another machine: `finetune-hub login --url URL`.",
        )
