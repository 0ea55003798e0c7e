"""`finetune-hub worker`: join a hub's fleet with this machine. See docs/workers.md."""

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
from finetune_hub.embedded.hub_environment import load_environment
from finetune_hub.embedded.stack import PYTHON, default_worker_name, worker_command
from finetune_hub.embedded.state import read_state
from finetune_hub.spec.ids import WORKER_NAME

ADDRESSES = {
    "DATABASE_URL": "the hub's Postgres; `finetune-hub workers invite NAME` on its machine prints one for each worker",
    "REDIS_URL": "the hub's Redis or Valkey, such as redis://hub.example:6379/0",
    "ARTIFACT_URL": "the hub's artifact store, such as s3://bucket/prefix?endpoint=https://store.example",
}


def worker(
    name: Annotated[
        str | None, typer.Option(help="The worker's name, unique on the hub. Default: the machine's short name.")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Labels that jobs can select, such as `a100,eu`.")] = None,
    cpu_devices: Annotated[
        int | None, typer.Option(help="Without a GPU: how many devices to split the CPUs into.", min=1)
    ] = None,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder for attempts and caches. Default: workers/NAME in FINETUNE_HUB_HOME or ~/.finetune-hub; "
            "the hub's own folder if a hub runs on this machine.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Join a hub with this machine's GPUs: that of DATABASE_URL, REDIS_URL and ARTIFACT_URL, or the local one.

    Ctrl-C or SIGTERM stops only the worker. Trainings continue, and a worker that starts before their leases expire
    takes them over.
    """
    name = name or default_worker_name()
    if not re.fullmatch(WORKER_NAME, name):
        raise style.CommandError(
            f"{name!r} is not a valid worker name.", "Use up to 64 of a-z, 0-9 and -.", exit_code=2
        )
    folder = (home.expanduser() if home else default_home()).absolute()
    if not any(os.environ.get(variable) for variable in ADDRESSES) and read_state(folder):
        environment = load_environment(folder)
    else:
        require_addresses()
        environment = {"DJANGO_SETTINGS_MODULE": "finetune_hub.settings", **os.environ}
        folder = folder if home else folder / "workers" / name
    environment |= {
        "FINETUNE_HUB_HOME": str(folder),
        "FINETUNE_HUB_WORKER_NAME": name,
        "SECRET_KEY": secrets.token_urlsafe(48),  # A worker signs nothing, so it does not need the hub's key.
        "PYTHONUNBUFFERED": "1",
    }
    if labels is not None:
        environment["FINETUNE_HUB_WORKER_LABELS"] = labels
    if cpu_devices is not None:
        environment["FINETUNE_HUB_CPU_DEVICES"] = str(cpu_devices)
    prepare_home(folder)
    hold_for_life(folder, name)
    if subprocess.run([*PYTHON, "workers.preflight"], env=environment, cwd=folder, check=False).returncode != 0:
        raise typer.Exit(1)
    style.say(f"[bold]{name}[/bold] is joining. Its attempts and caches are in {style.literal(folder)}")
    os.chdir(folder)
    command = worker_command(name)
    os.execve(command[0], command, environment)  # noqa: S606 (our own command, without a shell)


def require_addresses() -> None:
    """Check that all addresses are set.

    Raises:
        CommandError: an address is missing.
    """
    for variable, what in ADDRESSES.items():
        if not os.environ.get(variable):
            raise style.CommandError(f"{variable} is not set.", f"Set it to the address of {what}.", exit_code=2)


def hold_for_life(home: Path, name: str) -> None:
    """Lock the home against a second worker with this name. The lock is inherited by the program we exec.

    Raises:
        CommandError: another worker holds the lock.
    """
    lock = os.open(home / "run" / f"worker-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(lock, True)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = f"The worker {name} is already running in {home}."
        raise style.CommandError(problem, "Stop it first, or start this one with another --name.") from None
