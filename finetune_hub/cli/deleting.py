"""The `delete` commands: print what would be deleted and what needs it, ask, delete, print how to restore."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from finetune_hub.cli.answers import Outlook, Related
from finetune_hub.cli.client import Hub
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.output import day, print_json

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, and accept that other things stop working.")]
NAMED = 10


def delete_after_asking(
    hub: Hub, path: str, called: str, *, yes: bool, as_json: bool, all_versions: bool = False
) -> None:
    """Delete what is at this path of the API. It asks only in a terminal; elsewhere `--yes` accepts.

    Args:
        called: What the user calls it.
        all_versions: Elsewhere, this needs `--yes`, in case a script has forgotten the version.

    Raises:
        HubError: jobs need it, or other things stop working, which was not accepted.
    """
    if all_versions and not yes and not is_asked():
        raise HubError("invalid_reference", "No version is given.", "Use NAME:VERSION, or --yes for all versions.")
    outlook = hub.deletion_outlook(path)
    asks = is_asked() and not yes and not outlook.held_by
    print_outlook(outlook)
    if asks and not typer.confirm(f"Delete {outlook.subject}?", err=True):
        print("Nothing was deleted.", file=sys.stderr)
        raise typer.Exit(1)
    deletion = hub.delete(path, accept_dependents=yes or asks)
    if as_json:
        print_json(deletion)
    else:
        until = day(deletion.restorable_until)
        print(f"{called} is deleted.")
        print(f"Restore it until {until} UTC: finetune-hub trash restore {deletion.id}", file=sys.stderr)


def is_asked() -> bool:
    """Return whether the command runs in a terminal and can ask."""
    return sys.stdin.isatty()


def print_outlook(outlook: Outlook) -> None:
    """Print the preview on stderr, so that stdout only has the answer."""
    print(f"{outlook.subject}: {outlook.sentence}", file=sys.stderr)
    print_related("In use by:", outlook.held_by)
    print_related("Stops working:", outlook.stops_working)
    print_related("Is kept:", outlook.stays)


def print_related(heading: str, related: Sequence[Related]) -> None:
    if not related:
        return
    print(heading, file=sys.stderr)
    for each in related[:NAMED]:
        name = f"{each.id} ({each.name})" if each.kind == "job" else f"{each.kind} {each.name}"
        print(f"  {name} {each.how}", file=sys.stderr)
    if len(related) > NAMED:
        print(f"  and {len(related) - NAMED} more", file=sys.stderr)
