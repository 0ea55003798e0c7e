"""The monthly usage report: a team's usage for its members, all teams' usage for the hub's staff."""

from __future__ import annotations

import csv
from dataclasses import asdict, fields
from typing import get_args

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.operations.usage import By, Month, UsageLine, check_by, total_of, usage_of
from finetune_hub.spec.refusal import Refusal

SHOWN_LINES = 200
FORMULA_SIGNS = ("=", "+", "-", "@")  # A spreadsheet evaluates cells that begin with one.


@login_required
@require_safe
def show_usage(request: MemberRequest, slug: str | None = None) -> HttpResponse:
    """Show a month (`?month=2026-11`), grouped by `?by=`. The CSV file has all lines."""
    team, month, by = asked_for(request, slug)
    lines = usage_of(month, by, team=team)
    gpu_seconds, cpu_seconds = total_of(lines)
    context = {
        "team": team,
        "month": month,
        "by": by,
        "groupings": get_args(By) if team is None else [word for word in get_args(By) if word != "team"],
        "lines": lines[:SHOWN_LINES],
        "line_count": len(lines),
        "gpu_seconds": gpu_seconds,
        "cpu_seconds": cpu_seconds,
        "is_this_month": month == Month.now(),
    }
    return render(request, "team/usage.html", context)


@login_required
@require_safe
def download_usage(request: MemberRequest, slug: str | None = None) -> HttpResponse:
    team, month, by = asked_for(request, slug)
    name = f"usage-{team.slug if team else 'all-teams'}-{month}-by-{by}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    response = HttpResponse(content_type="text/csv; charset=utf-8", headers=headers)
    columns = [field.name for field in fields(UsageLine)]
    writer = csv.writer(response)
    writer.writerow(["month", *columns])
    for line in usage_of(month, by, team=team):
        row = asdict(line)
        writer.writerow([str(month), *(as_cell(row[name]) for name in columns)])
    return response


def asked_for(request: MemberRequest, slug: str | None) -> tuple[Team | None, Month, By]:
    """Parse the request.

    Raises:
        Http404: the user is not in the team, or the month is invalid.
        Refusal: `forbidden`, if the user is not staff.
    """
    team = None if slug is None else get_object_or_404(Team.objects.of(request.user), slug=slug)
    if team is None:
        require_right(Right.SEE_ALL_USAGE, request.user)
    try:
        month = Month.parse(request.GET["month"]) if "month" in request.GET else Month.now()
        return team, month, check_by(request.GET.get("by", "user" if team else "team"))
    except Refusal as refusal:
        raise Http404(str(refusal)) from refusal


def as_cell(value: object) -> object:
    """Escape a value so that a spreadsheet treats it as text."""
    if isinstance(value, str) and value.startswith(FORMULA_SIGNS):
        return f"'{value}"
    return value
