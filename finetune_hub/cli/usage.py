"""`finetune-hub usage`: device hours used in a month, as a table, JSON or CSV."""

from __future__ import annotations

import csv
import sys
from typing import Annotated

import typer

from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, print_json, print_table, reports_errors

NAMES = ("team", "user", "job", "kind", "worker", "device")


@reports_errors
def usage(
    month: Annotated[str | None, typer.Option(help="A month in UTC, such as 2026-11. Default: this month.")] = None,
    by: Annotated[str, typer.Option(help="Group by team, user, job or device.")] = "user",
    all_teams: Annotated[bool, typer.Option("--all-teams", help="Show every team. For the hub's staff.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, with times in seconds.")] = False,
    as_json: Json = False,
) -> None:
    """Show how long devices were in use in a month, and how long jobs waited."""
    with connect() as hub:
        found = hub.usage(month, by=by, all_teams=all_teams)
    lines = found.lines
    names = [name for name in NAMES if any(getattr(line, name) is not None for line in lines)]
    if as_json:
        print_json(found)
    elif as_csv:
        columns = [*names, "gpu_seconds", "cpu_seconds", "jobs", "mean_wait_seconds"]
        writer = csv.DictWriter(sys.stdout, ["month", *columns], extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({"month": found.month, **line.model_dump()} for line in lines)
    else:
        print_table(
            [*map(str.upper, names), "GPU HOURS", "CPU HOURS", "JOBS", "MEAN WAIT"],
            [
                (
                    *(getattr(line, name) for name in names),
                    hours(line.gpu_seconds),
                    hours(line.cpu_seconds),
                    line.jobs,
                    "-" if line.mean_wait_seconds is None else f"{line.mean_wait_seconds:.0f} s",
                )
                for line in lines
            ],
        )
        print(f"{found.month}: {hours(found.gpu_seconds)} GPU hours, {hours(found.cpu_seconds)} CPU hours.")


def hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"
