"""`finetune-hub quotas`: list, set."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_hub.cli import style
from finetune_hub.cli.answers import Quota
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import Json, print_json, print_table, reports_errors

app = style.new_group("Quotas: how much of the fleet teams may use, and how much they use.")


@app.command("list")
@reports_errors
def list_quotas(as_json: Json = False) -> None:
    """List the quotas of your teams, or of all teams for the hub's staff."""
    with connect() as hub:
        found = hub.quotas()
    if as_json:
        print_json(found)
        return
    print_table(
        ["TEAM", "DEVICES", "HOURS THIS MONTH", "WEIGHT", "RECENT HOURS"],
        [
            (
                quota.team,
                _of(str(quota.devices), quota.max_devices),
                _of(f"{quota.month_hours:.1f}", quota.max_hours),
                f"{quota.weight:g}",
                f"{quota.recent_hours:.1f}",
            )
            for quota in found
        ],
    )


@app.command("set")
@reports_errors
def set_quota(
    team: Annotated[str, typer.Argument(help="The team's name in `quotas list`.")],
    max_devices: Annotated[int | None, typer.Option(help="Devices at the same time. Default: no limit.", min=0)] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Device hours per calendar month (UTC). Default: no limit.", min=0)
    ] = None,
    weight: Annotated[float, typer.Option(help="Its share of a busy fleet, relative to other teams.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Set a team's quota. Running jobs continue."""
    with connect() as hub:
        quota = hub.set_quota(team, max_devices=max_devices, max_hours=max_hours, weight=weight)
    print_json(quota) if as_json else print(_sentence(quota))


def _of(used: str, limit: float | None) -> str:
    return used if limit is None else f"{used} of {limit:g}"


def _sentence(quota: Quota) -> str:
    devices = "any number of devices" if quota.max_devices is None else f"{quota.max_devices} devices"
    hours = "any number of device hours" if quota.max_hours is None else f"{quota.max_hours:g} device hours"
    return f"{quota.name} may use {devices} at the same time and {hours} per month, with weight {quota.weight:g}."
