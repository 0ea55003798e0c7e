"""`finetune-hub datasets`: push and list. A file is checked here first, so that its errors cost no upload."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.client import HubError
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, day, print_json, print_table, reports_errors, size
from finetune_hub.data.chat_rows import check_chat_file

app = style.new_group("Datasets: push a file, list them.")


@app.command()
@reports_errors
def push(
    file: Annotated[Path, typer.Argument(help="A JSONL file, one conversation on each line.")],
    name: Annotated[str | None, typer.Option(help="The dataset. Default: made from the file's name.")] = None,
    as_json: Json = False,
) -> None:
    """Check a file, and upload it as the newest version of a dataset."""
    check_file(file)
    with connect() as hub:
        version = hub.push_dataset(file, name or name_of(file))
    if as_json:
        print_json(version)
    else:
        print(f"{version['name']}:{version['number']}  {version['row_count']} rows, {size(version['size_bytes'])}")


@app.command("list")
@reports_errors
def list_datasets(as_json: Json = False) -> None:
    """List the team's datasets."""
    with connect() as hub:
        datasets = hub.datasets()
    if as_json:
        print_json(datasets)
        return
    print_table(
        ["NAME", "VERSION", "ROWS", "SIZE", "CREATED", "ID"],
        [
            (
                dataset["name"],
                dataset["newest_number"],
                dataset["newest_row_count"],
                size(dataset["newest_size_bytes"]),
                day(dataset["newest_created_at"]),
                dataset["id"],
            )
            for dataset in datasets
        ],
    )


def check_file(file: Path) -> None:
    """Refuse here, in the service's words, what the service would refuse.

    Raises:
        HubError: `file_unreadable`, or `invalid_dataset` with an entry in `details` for each defect.
    """
    try:
        report = check_chat_file(file)
    except OSError as error:
        reason = error.strerror or "it is no file"
        raise HubError(
            "file_unreadable", f"{file} cannot be read: {reason}.", "Give the path of a JSONL file."
        ) from error
    if not report.is_sound:
        refusal = report.refusal()
        raise HubError(
            refusal.code, refusal.message, refusal.remedy, field=refusal.field, details=list(refusal.details)
        )


def name_of(file: Path) -> str:
    """A dataset's name from a file's: `Support Tickets.jsonl` → `support-tickets`."""
    return re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:64].strip("-") or "dataset"
