"""`finetune-hub worker`: this machine joins a hub's fleet, wherever the hub runs. docs/workers.md is the guide."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.embedded.folders import default_home, prepare_home
from finetune_hub.embedded.stack import PYTHON, WORKER_NAME, default_worker_name, worker_command

ADDRESSES = {
    "DATABASE_URL": "the hub's Postgres; `finetune-hub workers invite NAME` on its machine prints one for a worker",
    "REDIS_URL": "the hub's Redis or Valkey, such as redis://hub.example:6379/0",
    "ARTIFACT_URL": "the hub's artifact store, such as s3://bucket/prefix?endpoint=https://store.example",
}


def worker(
    name: Annotated[
        str | None, typer.Option(help="The worker's name in the fleet. Default: this machine's short name.")
    ] = None,
    labels: Annotated[str, typer.Option(help="Words by which jobs may choose it, such as `a100,eu`.")] = "",
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder of its attempts and caches. Default: workers/NAME in FINETUNE_HUB_HOME or ~/.finetune-hub.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Join a hub with this machine's GPUs. DATABASE_URL, REDIS_URL and ARTIFACT_URL say where the hub is.

    Ctrl-C, or SIGTERM, stops the worker alone: trainings go on, and a worker started before their lease ends takes them
    up again.
    """
    name = name or default_worker_name()
    if not re.fullmatch(WORKER_NAME, name):
        raise style.CommandError(f"{name!r} is no worker's name.", "Write up to 64 of a-z, 0-9 and -.", exit_code=2)
    folder = (home.expanduser() if home else default_home() / "workers" / name).absolute()
    environment = worker_environment(folder, name, labels)
    prepare_home(folder)
    _hold_for_life(folder)
    if subprocess.run([*PYTHON, "workers.preflight"], env=environment, cwd=folder, check=False).returncode != 0:
        raise typer.Exit(1)
    style.say(f"[bold]{name}[/bold] joins; its attempts and caches are in {style.literal(folder)}")
    os.chdir(folder)
    command = worker_command(name)
    os.execve(command[0], command, environment)  # noqa: S606 (no shell, and none is wanted)


def worker_environment(home: Path, name: str, labels: str) -> dict[str, str]:
    """This process' variables and the worker's own. No key of the hub is among them: a worker signs nothing.

    Raises:
        CommandError: an address is missing.
    """
    for variable, what in ADDRESSES.items():
        if not os.environ.get(variable):
            raise style.CommandError(f"{variable} is not set.", f"It is the address of {what}.", exit_code=2)
    return {
        "DJANGO_SETTINGS_MODULE": "finetune_hub.settings",
        **os.environ,
        "FINETUNE_HUB_HOME": str(home),
        "FINETUNE_HUB_WORKER_NAME": name,
        "FINETUNE_HUB_WORKER_LABELS": labels,
        "SECRET_KEY": secrets.token_urlsafe(48),
        "PYTHONUNBUFFERED": "1",
    }


def _hold_for_life(home: Path) -> None:
    """Keep the home for this worker. The lock passes to the program that this process becomes, and ends with it.

    Raises:
        CommandError: another worker runs in it.
    """
    lock = os.open(home / "run" / "worker.lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise style.CommandError(
            f"A worker already runs in {home}.", "Stop it first, or give this one another --name and --home."
        ) from None
