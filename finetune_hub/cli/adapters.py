"""`finetune-hub adapters`: list, pull and delete."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.deleting import Yes, delete_after_asking
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, day, print_json, print_table, reports_errors, size

app = style.new_group("Adapters: list them, pull one, delete one.")


@app.command("list")
@reports_errors
def list_adapters(as_json: Json = False) -> None:
    """List the team's adapters."""
    with connect() as hub:
        adapters = hub.adapters()
    if as_json:
        print_json(adapters)
        return
    print_table(
        ["NAME", "VERSION", "METHOD", "BASE MODEL", "SIZE", "CREATED", "ID"],
        [
            (
                adapter.name,
                adapter.newest_number,
                adapter.newest_method,
                adapter.base_model,
                size(adapter.newest_size_bytes),
                day(adapter.newest_created_at),
                adapter.id,
            )
            for adapter in adapters
        ],
    )


@app.command()
@reports_errors
def pull(
    adapter: Annotated[str, typer.Argument(metavar="NAME_OR_ID[:VERSION]", help="The newest version by default.")],
    output: Annotated[Path | None, typer.Option(help="The folder to create. Default: NAME-vVERSION.")] = None,
    as_json: Json = False,
) -> None:
    """Download an adapter. The folder only appears when it is complete and verified."""
    name, version = parse_reference(adapter)
    with connect() as hub:
        folder = hub.pull(name, version, output=output, report=report_file)
    if as_json:
        print_json({"folder": str(folder.absolute())})
    else:
        print(folder)


@app.command()
@reports_errors
def delete(
    adapter: Annotated[str, typer.Argument(metavar="NAME_OR_ID[:VERSION]", help="All versions by default.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete an adapter or one version of it. It can be restored for a time."""
    name, version = parse_reference(adapter)
    with connect() as hub:
        path = f"adapters/{hub.adapter_id(name)}" + (f"/versions/{version}" if version else "")
        delete_after_asking(hub, path, adapter, yes=yes, as_json=as_json, all_versions=version is None)


def parse_reference(reference: str) -> tuple[str, int | None]:
    """Parse `name:3` into name and version.

    Raises:
        HubError: `invalid_reference`.
    """
    name, colon, version = reference.partition(":")
    if not name or (colon and not (version.isascii() and version.isdigit() and int(version) > 0)):
        raise HubError(
            "invalid_reference",
            f"{reference!r} is not a version of an adapter.",
            "Use NAME or NAME:3, or an id instead of NAME.",
        )
    return name, int(version) if version else None


def report_file(path: str, size_bytes: int) -> None:
    print(f"  {path}  {size(size_bytes)}", file=sys.stderr)
