"""Accounting: who held which devices for how long, and how long their jobs waited. Computed from the attempts' rows.

    seconds of a use  =  the part of [assigned_at, released_at or now) within the month  ·  share of the device

The share is that of the device's memory; 1: it is held whole. A device is held from its assignment on, because no other
job can get it then. Months are UTC and half-open, and the database clips by its own clock: no second counts twice, and
a use over two months is split between them. A wait belongs to the month in which the job first started.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from django.db.models import Avg, Count, DateTimeField, DurationField, ExpressionWrapper, F, Q, QuerySet, Sum, Value
from django.db.models.functions import Coalesce, Greatest, Least, Now

from finetune_hub.accounts.models import Team
from finetune_hub.fleet.models import DeviceKind
from finetune_hub.jobs.models import SHARE_OF_DEVICE, DeviceUse, Job
from finetune_hub.spec.refusal import Refusal

By = Literal["team", "user", "job", "device"]

# The columns that name a line, as paths from a job; devices have their own.
JOB_KEYS: dict[str, dict[str, str]] = {
    "team": {"team_slug": "team__slug"},
    "user": {"team_slug": "team__slug", "username": "created_by__username"},
    "job": {"team_slug": "team__slug", "username": "created_by__username", "job_pk": "id", "job_kind": "kind"},
}
DEVICE_KEYS = {"worker_name": "device__worker__name", "device_index": "device__index", "device_name": "device__name"}


@dataclass(frozen=True)
class Month:
    """A calendar month in UTC: [start, end)."""

    start: datetime

    @classmethod
    def parse(cls, text: str) -> Month:
        """Parse a month such as `2026-11`.

        Raises:
            Refusal: `invalid_month`.
        """
        found = re.fullmatch(r"(20\d\d)-(0[1-9]|1[0-2])", text)
        if found is None:
            raise Refusal("invalid_month", f"{text!r} is not a month.", "Use the format 2026-11.", field="month")
        return cls(datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC))

    @classmethod
    def now(cls) -> Month:
        return cls(datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0))

    @property
    def end(self) -> datetime:
        return (self.start + timedelta(days=31)).replace(day=1)

    @property
    def before(self) -> Month:
        return Month((self.start - timedelta(days=1)).replace(day=1))

    @property
    def after(self) -> Month:
        return Month(self.end)

    def __str__(self) -> str:
        return f"{self.start:%Y-%m}"


@dataclass(frozen=True)
class UsageLine:
    """The use of a team, a user, a job or a device. Only the names of its grouping are set."""

    gpu_seconds: float
    cpu_seconds: float
    jobs: int
    mean_wait_seconds: float | None = None
    """Mean time from submission to first start, over the jobs that started in the month; None: none did."""
    team: str | None = None
    user: str | None = None
    job: str | None = None
    kind: str | None = None
    worker: str | None = None
    device: str | None = None


def check_by(text: str) -> By:
    """Check a grouping.

    Raises:
        Refusal: `invalid_grouping`.
    """
    groupings: dict[str, By] = {by: by for by in get_args(By)}
    if text in groupings:
        return groupings[text]
    remedy = f"Use one of {', '.join(groupings)}."
    raise Refusal("invalid_grouping", f"Usage cannot be grouped by {text!r}.", remedy, field="by")


def usage_of(month: Month, by: By, *, team: Team | None) -> list[UsageLine]:
    """Return the month's lines, most device time first. No team: all teams."""
    uses = held_within(month)
    jobs = Job.objects.filter(started_at__gte=month.start, started_at__lt=month.end)
    if team:
        uses, jobs = uses.filter(attempt__job__team=team), jobs.filter(team=team)
    keys = DEVICE_KEYS if by == "device" else {name: f"attempt__job__{path}" for name, path in JOB_KEYS[by].items()}
    seconds = {
        "gpu": Coalesce(Sum("held", filter=Q(device__kind=DeviceKind.CUDA)), timedelta()),
        "cpu": Coalesce(Sum("held", filter=Q(device__kind=DeviceKind.CPU)), timedelta()),
    }
    rows: Any = (
        uses.values(**{name: F(path) for name, path in keys.items()})
        .annotate(**seconds, total=Sum("held"), jobs=Count("attempt__job", distinct=True))
        .order_by("-total", *keys)
    )
    waits = {} if by == "device" else mean_waits(jobs, JOB_KEYS[by])
    return [line_of(row, waits.get(tuple(row[name] for name in keys))) for row in rows]


def held_within(month: Month) -> QuerySet[DeviceUse]:
    """Return the uses within the month, each with the time `held`, multiplied by its share of the device."""
    start, end = (Value(moment, output_field=DateTimeField()) for moment in (month.start, month.end))
    overlapping = DeviceUse.objects.filter(
        Q(released_at=None) | Q(released_at__gt=month.start), attempt__assigned_at__lt=month.end
    )
    first = Greatest("attempt__assigned_at", start)
    last = Least(Coalesce("released_at", Now()), end)
    uses: QuerySet[DeviceUse] = overlapping.alias(
        held=ExpressionWrapper((last - first) * SHARE_OF_DEVICE, output_field=DurationField())
    )
    return uses.filter(Q(("held__gt", timedelta())))  # A future month has none.


def mean_waits(jobs: QuerySet[Job], keys: dict[str, str]) -> dict[tuple[Any, ...], timedelta]:
    """Return the jobs' mean wait for their first start, by the values of the keys."""
    wait = ExpressionWrapper(F("started_at") - F("created_at"), output_field=DurationField())
    rows: Any = jobs.values(**{name: F(path) for name, path in keys.items()}).annotate(wait=Avg(wait)).order_by()
    return {tuple(row[name] for name in keys): row["wait"] for row in rows}


def line_of(row: dict[str, Any], wait: timedelta | None) -> UsageLine:
    named = "device_name" in row
    return UsageLine(
        gpu_seconds=row["gpu"].total_seconds(),
        cpu_seconds=row["cpu"].total_seconds(),
        jobs=row["jobs"],
        mean_wait_seconds=None if wait is None else wait.total_seconds(),
        team=row.get("team_slug"),
        user=row.get("username"),
        job=row.get("job_pk"),
        kind=row.get("job_kind"),
        worker=row.get("worker_name"),
        device=f"{row['device_index']}: {row['device_name']}" if named else None,
    )


def total_of(lines: Iterable[UsageLine]) -> tuple[float, float]:
    """Return the total GPU seconds and CPU seconds."""
    lines = list(lines)
    return sum(line.gpu_seconds for line in lines), sum(line.cpu_seconds for line in lines)
