"""`finetune-hub workers`: list, drain, resume, remove, share, release; and on the hub's machine invite and revoke."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.answers import Worker
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, print_json, print_table, reports_errors
from finetune_hub.cli.this_machine import Home, require_unix
from finetune_hub.spec.ids import WORKER_NAME

app = style.new_group("Workers: list with devices and health, drain, resume, remove or invite one, release a device.")


Name = Annotated[str, typer.Argument(help="The worker's name in `workers list`.")]
Device = Annotated[str, typer.Argument(help="The device's kind and index, such as cuda:0.")]


@app.command("list")
@reports_errors
def list_workers(as_json: Json = False) -> None:
    """List the workers."""
    with connect() as hub:
        found = hub.workers()
    if as_json:
        print_json(found)
        return
    print_table(
        ["NAME", "HEALTH", "DEVICES", "HOST", "WHY"],
        [
            (
                worker.name,
                worker.health,
                ", ".join(device.name for device in worker.devices if device.present) or "-",
                worker.hostname,
                worker.health_reason,
            )
            for worker in found
        ],
    )


@app.command("drain")
@reports_errors
def drain_worker(name: Name, as_json: Json = False) -> None:
    """Stop placing new jobs on a worker. Running jobs continue."""
    with connect() as hub:
        _print_health(hub.drain_worker(name), as_json)


@app.command("resume")
@reports_errors
def resume_worker(name: Name, as_json: Json = False) -> None:
    """Allow new jobs on a worker again."""
    with connect() as hub:
        _print_health(hub.resume_worker(name), as_json)


@app.command("share")
@reports_errors
def share_device(
    name: Name,
    device: Device,
    off: Annotated[bool, typer.Option("--off", help="Stop sharing it.")] = False,
    as_json: Json = False,
) -> None:
    """Let small jobs share a device as long as they fit in its memory."""
    with connect() as hub:
        worker = hub.share_device(name, *device_of(device), not off)
    if as_json:
        print_json(worker)
    else:
        print(f"{device} of {name} now runs {'one job at a time' if off else 'several small jobs at a time'}.")


@app.command("remove")
@reports_errors
def remove_worker(name: Name, as_json: Json = False) -> None:
    """Remove an offline worker that is gone for good from the fleet."""
    with connect() as hub:
        hub.remove_worker(name)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        print(f"{name} is removed. If it joins again, it is back in the fleet.")


@app.command("release")
@reports_errors
def release_device(
    name: Name,
    device: Device,
    as_json: Json = False,
) -> None:
    """End the quarantine of a repaired device."""
    with connect() as hub:
        worker = hub.release_device(name, *device_of(device))
    if as_json:
        print_json(worker)
    else:
        print(f"{device} of {name} can run jobs again.")


@app.command("invite")
def invite_worker(name: Name, home: Home = None) -> None:
    """Let a worker join from another machine: print its environment, with its own database role.

    Run it on the hub's machine. The role can only access the worker's own jobs. Its password is shown only once;
    inviting the worker again replaces it.
    """
    _manage(home, "invite_worker", name)


@app.command("revoke")
def revoke_worker(name: Name, home: Home = None) -> None:
    """Drop an invited worker's database role, which cuts it off immediately. Run it on the hub's machine."""
    _manage(home, "revoke_worker", name)


def device_of(text: str) -> tuple[str, int]:
    """Parse `cuda:0` into kind and index."""
    kind, _, index = text.partition(":")
    if not index.isdecimal():
        raise typer.BadParameter("Use kind and index, such as cuda:0.")
    return kind, int(index)


def _manage(home: Path | None, command: str, name: str) -> None:
    if not re.fullmatch(WORKER_NAME, name):
        raise style.CommandError(
            f"{name!r} is not a valid worker name.", "Use up to 64 of a-z, 0-9 and -.", exit_code=2
        )
    require_unix(f"workers {command.removesuffix('_worker')}")
    from finetune_hub.embedded.folders import default_home
    from finetune_hub.embedded.hub_environment import manage

    done = manage((home.expanduser() if home else default_home()).absolute(), command, name)
    print(done.stdout, end="")
    if done.returncode != 0:
        raise typer.Exit(1)


def _print_health(worker: Worker, as_json: bool) -> None:
    if as_json:
        print_json(worker)
    else:
        print(f"{worker.name} is {worker.health}: {worker.health_reason}")
