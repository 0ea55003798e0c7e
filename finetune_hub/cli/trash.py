"""`finetune-hub trash`: list and restore what was deleted."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, day, print_json, print_table, reports_errors, size

app = style.new_group("Trash: list what was deleted in the team, and restore it.")


@app.command("list")
@reports_errors
def list_trash(as_json: Json = False) -> None:
    """List what can be restored and until when."""
    with connect() as hub:
        found = hub.trash()
    if as_json:
        print_json(found)
        return
    print_table(
        ["WHAT", "SIZE", "DELETED BY", "DELETED", "RESTORABLE UNTIL", "ID"],
        [
            (
                row.subject,
                size(row.size_bytes),
                row.deleted_by,
                day(row.deleted_at),
                day(row.restorable_until),
                row.id,
            )
            for row in found
        ],
    )


@app.command()
@reports_errors
def restore(
    deletion: Annotated[str, typer.Argument(metavar="ID", help="The deletion, such as del-7k2m…; see `trash list`.")],
    as_json: Json = False,
) -> None:
    """Restore everything that was deleted together."""
    with connect() as hub:
        restored = hub.restore(deletion)
    print_json(restored) if as_json else print(f"Restored {restored.subject}.")
