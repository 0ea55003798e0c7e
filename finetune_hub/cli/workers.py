"""`finetune-hub workers`: list."""

from __future__ import annotations

from finetune_hub.cli import style
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, print_json, print_table, reports_errors

app = style.new_group("Workers: list them with their devices and health.")


@app.callback()
def workers() -> None:
    """typer would make a group with one command that command itself; this keeps `workers list`."""


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
                worker["name"],
                worker["health"],
                ", ".join(device["name"] for device in worker["devices"] if device["present"]) or "-",
                worker["hostname"],
                worker["health_reason"],
            )
            for worker in found
        ],
    )
