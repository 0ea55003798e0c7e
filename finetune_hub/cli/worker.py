"""`finetune-hub worker`: one more worker, on this machine or another, for a hub that runs already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.embedded.environment import load_environment
from finetune_hub.embedded.folders import default_home
from finetune_hub.embedded.stack import default_worker_name, worker_command


def worker(
    name: Annotated[
        str | None, typer.Option(help="Its name, one of its own on the hub. Default: the machine's short name.")
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of its data. Default: FINETUNE_HUB_HOME, or ~/.finetune-hub.", show_default=False),
    ] = None,
    cpu_devices: Annotated[
        int | None, typer.Option(help="Where there is no GPU: lend the processors as so many devices.", min=1)
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Words, between commas, by which jobs may ask for it.")] = None,
) -> None:
    """Run a GPU worker. Ctrl-C stops it; what it trains goes on, and is found again when it returns in time.

    It finds the hub that `finetune-hub up` runs in the home, or the one that DATABASE_URL, REDIS_URL, ARTIFACT_URL and
    SECRET_KEY name.
    """
    folder = (home.expanduser() if home else default_home()).absolute()
    environment = load_environment(folder)
    environment["FINETUNE_HUB_HOME"] = str(folder)
    environment["FINETUNE_HUB_WORKER_NAME"] = name or default_worker_name()
    if cpu_devices is not None:
        environment["FINETUNE_HUB_CPU_DEVICES"] = str(cpu_devices)
    if labels is not None:
        environment["FINETUNE_HUB_WORKER_LABELS"] = labels
    command = worker_command(environment["FINETUNE_HUB_WORKER_NAME"])
    os.execvpe(command[0], command, environment)  # noqa: S606 (the command is ours, and no shell reads it)
