"""`finetune-hub up`, `status` and `down`: the whole hub on one machine."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.this_machine import Home
from finetune_hub.embedded.folders import default_home, prepare_home
from finetune_hub.embedded.stack import Stack, default_worker_name
from finetune_hub.embedded.state import UpState, hold_lock, read_state

TEND_SECONDS = 0.2
DOWN_SECONDS = 90.0
NOT_RUNNING = 3
PARTLY_RUNNING = 1


class StopWishes:
    """Counter of stop requests: Ctrl-C, SIGTERM, or a closed terminal."""

    def __init__(self) -> None:
        self._count = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._count_wish)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # With nohup, keep running after the terminal closes.
            signal.signal(signal.SIGHUP, self._count_wish)

    def asked(self) -> bool:
        return self._count >= 1

    def asked_again(self) -> bool:
        return self._count >= 2

    def _count_wish(self, number: int, _frame: FrameType | None) -> None:
        # A closing terminal sends SIGHUP in addition to other signals, so it never counts as a second request.
        self._count = max(self._count, 1) if number == signal.SIGHUP else self._count + 1


def up(
    home: Home = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. 0.0.0.0 makes the hub reachable from the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(help="Port to listen on. Default: the first free one from 8000.", min=0, max=65535)
    ] = None,
    worker_name: Annotated[
        str | None, typer.Option(help="Name of this machine's GPU worker. Default: the machine's short name.")
    ] = None,
) -> None:
    """Run the whole hub on this machine: database, queue, web, scheduler and a GPU worker. Ctrl-C stops everything.

    Set DATABASE_URL, REDIS_URL and ARTIFACT_URL to use your own servers instead of the built-in ones.
    """
    folder = (home.expanduser() if home else default_home()).absolute()
    prepare_home(folder)
    wishes = StopWishes()
    with hold_lock(folder):
        stack = Stack(
            folder,
            host=host,
            port=port,
            worker_name=worker_name or default_worker_name(),
            stopping=wishes.asked,
            report=style.tick,
            announce=_announce,
        )
        try:
            style.say("[bold]finetune_hub[/bold] is starting")
            stack.start()
            if not wishes.asked():
                _welcome(stack)
            while not wishes.asked():
                stack.tend()
                time.sleep(TEND_SECONDS)
        finally:
            style.say("\n[bold]finetune_hub[/bold] is stopping [dim](Ctrl-C again to force)[/dim]")
            stack.stop(hurry=wishes.asked_again)


def status(
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what is running on this machine. Exit code 0: healthy, 1: a part is not healthy, 3: not running."""
    folder = (home.expanduser() if home else default_home()).absolute()
    state = read_state(folder)
    if as_json:
        print(json.dumps(_as_facts(folder, state), indent=2))
    elif state is None:
        style.say(f"No hub is running in {style.literal(folder)}. Start it with `finetune-hub up`.")
    else:
        _show(folder, state)
    if state is None:
        raise typer.Exit(NOT_RUNNING)
    if not state.is_healthy():
        raise typer.Exit(PARTLY_RUNNING)


def down(home: Home = None) -> None:
    """Stop the hub on this machine and wait until it has stopped."""
    folder = (home.expanduser() if home else default_home()).absolute()
    state = read_state(folder)
    if state is None:
        style.say(f"No hub is running in {style.literal(folder)}.")
        return
    began = time.monotonic()
    state.identity.send(signal.SIGTERM)
    while state.identity.is_alive():
        if time.monotonic() - began > DOWN_SECONDS:
            pid = state.identity.pid
            raise style.CommandError(
                f"The hub in {folder} (pid {pid}) has not stopped after {DOWN_SECONDS:.0f} seconds.",
                f"Force it with `kill -9 {pid}`. Its parts stop too, and no committed data is lost.",
            )
        time.sleep(TEND_SECONDS / 4)
    style.say(f"Stopped the hub in {style.literal(folder)} in {time.monotonic() - began:.1f} s.")


def _announce(sentence: str) -> None:
    style.say(f"    {style.literal(sentence)}")


def _welcome(stack: Stack) -> None:
    link = stack.login_link()
    style.say()
    style.say(f"  Address      [bold]{style.literal(stack.url)}[/bold]")
    if link:
        style.say(f"  First login  {style.literal(link)} [dim](works once)[/dim]")
    style.say(f"  Data         {style.literal(stack.home)}")
    database = stack.home / "postgres"
    if database.is_symlink():  # The account that Postgres runs as cannot read root's home.
        style.say(f"  Database     {style.literal(database.resolve())}")
    style.say(f"  Logs         {style.literal(stack.home / 'logs')}")
    style.say("\nCtrl-C stops everything.")


def _show(folder: Path, state: UpState) -> None:
    starting = "" if state.has_started else "still starting, "
    facts = f"{starting}pid {state.identity.pid}, data in {style.literal(folder)}"
    style.say(f"[bold]{style.literal(state.url)}[/bold] [dim]{facts}[/dim]")
    for part in state.parts:
        mark = "[green]✓[/green]" if part.is_healthy() else "[red]✗[/red]"
        pid = part.identity.pid if part.identity else "-"
        restarts = f"  restarted {part.restarts}×" if part.restarts else ""
        word = part.state if part.identity is None or part.identity.is_alive() else "dead"
        style.say(f"  {mark} {part.name:<10} {word:<10} {_duration(part.since):>8}  [dim]pid {pid}{restarts}[/dim]")


def _as_facts(folder: Path, state: UpState | None) -> dict[str, object]:
    facts: dict[str, object] = {"home": str(folder), "running": state is not None}
    if state:
        facts |= {"healthy": state.is_healthy(), **state.model_dump(mode="json")}
        facts["parts"] = [{**part.model_dump(mode="json"), "healthy": part.is_healthy()} for part in state.parts]
    return facts


def _duration(since: float) -> str:
    """Format the time since a moment (Unix time) with at most two units."""
    seconds = max(0, int(time.time() - since))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min"
    if seconds < 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"
