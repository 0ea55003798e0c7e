"""Prometheus metrics: read from Postgres at each scrape, with a few bounded queries. No process keeps counts.

Counters count since the start of the month (UTC) and reset with the next, which `rate()` and `increase()` treat as a
restart. The numbers of unfinished jobs, active attempts and machines are naturally bounded.

A team sees what its own jobs do. Machines and control's rounds belong to no team; all who may scrape see them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta

from django.conf import settings
from django.db import connection
from django.db.models import (
    Count,
    DurationField,
    Exists,
    ExpressionWrapper,
    F,
    Max,
    OuterRef,
    Q,
    Sum,
)
from django.db.models.functions import Now
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from finetune_hub.accounts.models import Team
from finetune_hub.fleet.models import Device, Worker
from finetune_hub.jobs.models import (
    ENDED_JOB_STATES,
    WAITS,
    Attempt,
    AttemptState,
    DeviceUse,
    Job,
    Publication,
    wait_of_job,
)
from finetune_hub.operations.models import Round
from finetune_hub.operations.usage import Month, held_within

PUBLICATION_BUCKETS = (1, 5, 15, 60, 300, 900)  # Seconds.

# Optimizer steps per second of all running attempts of a worker, each from the mean of its 20 newest steps.
STEP_RATES = """
SELECT worker.name, sum(1 / newest.seconds)
FROM jobs_attempt attempt
JOIN jobs_job job ON job.id = attempt.job_id
JOIN fleet_worker worker ON worker.id = attempt.worker_id
CROSS JOIN LATERAL (
    SELECT avg(seconds) AS seconds
    FROM (SELECT seconds FROM jobs_metricpoint WHERE attempt_id = attempt.id ORDER BY step DESC LIMIT 20) points
) newest
WHERE attempt.state = 'running' AND newest.seconds > 0 AND (%(team)s::bigint IS NULL OR job.team_id = %(team)s)
GROUP BY worker.name
"""


def registry(team: Team | None) -> CollectorRegistry:
    """Return a separate registry for a scrape, without prometheus_client's metrics of this process.

    Args:
        team: whose jobs count. None: those of all teams.
    """
    made = CollectorRegistry(auto_describe=False)
    made.register(HubCollector(team))
    return made


class HubCollector(Collector):
    def __init__(self, team: Team | None) -> None:
        self.team = team

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering does not query the database."""
        return []

    def collect(self) -> Iterator[Metric]:
        month = Month.now()
        yield from queue(self._only("team"))
        yield lease_ages(self._only("job__team"))
        yield device_seconds(month, self._only("attempt__job__team"))
        yield ended_attempts(month, self._only("job__team"))
        yield step_rates(self.team)
        yield publications(month, self._only("job__team"))
        yield from machines()
        yield round_ages()

    def _only(self, path: str) -> Q:
        """Return the condition for rows of the team, which the path leads to."""
        return Q(**{path: self.team}) if self.team else Q()


def queue(only: Q) -> Iterator[Metric]:
    """Yield unfinished jobs: the running ones, and the waiting ones by reason."""
    age = ExpressionWrapper(Now() - F("created_at"), output_field=DurationField())
    unfinished = Job.objects.filter(only).exclude(state__in=ENDED_JOB_STATES).annotate(wait=wait_of_job())
    depth = GaugeMetricFamily(
        "finetune_hub_queue_depth",
        f"Waiting jobs by reason: {', '.join(WAITS)}.",
        labels=["reason", "kind"],
    )
    running = GaugeMetricFamily("finetune_hub_jobs_running", "Running jobs.", labels=["kind"])
    oldest = timedelta()
    for row in unfinished.values("kind", "wait").annotate(jobs=Count("pk"), oldest=Max(age)):
        if row["wait"]:
            depth.add_metric([row["wait"], row["kind"]], row["jobs"])
            oldest = max(oldest, row["oldest"])
        else:
            running.add_metric([row["kind"]], row["jobs"])
    yield depth
    yield running
    yield GaugeMetricFamily(
        "finetune_hub_queue_oldest_seconds",
        "Time since the oldest waiting job was submitted; 0: none waits.",
        value=oldest.total_seconds(),
    )


def lease_ages(only: Q) -> Metric:
    """Return how long ago leases were renewed; one close to its length is about to expire."""
    family = GaugeMetricFamily(
        "finetune_hub_lease_age_seconds",
        f"Time since the worker's oldest lease was renewed; it expires at {settings.LEASE.total_seconds():g}.",
        labels=["worker"],
    )
    left = ExpressionWrapper(F("lease_expires_at") - Now(), output_field=DurationField())
    running = Attempt.objects.filter(only, state=AttemptState.RUNNING)
    for row in running.values(name=F("worker__name")).annotate(age=Max(settings.LEASE - left)).order_by():
        family.add_metric([row["name"]], row["age"].total_seconds())
    return family


def device_seconds(month: Month, only: Q) -> Metric:
    family = CounterMetricFamily(
        "finetune_hub_device_seconds",
        "How long devices were held this month, by team and kind of device.",
        labels=["team", "device_kind"],
    )
    uses = held_within(month).filter(only).values(team=F("attempt__job__team__slug"), kind=F("device__kind"))
    for row in uses.annotate(held=Sum("held")).order_by():
        family.add_metric([row["team"], row["kind"]], row["held"].total_seconds())
    return family


def ended_attempts(month: Month, only: Q) -> Metric:
    family = CounterMetricFamily(
        "finetune_hub_attempts_ended",
        "Attempts that ended this month, by state and failure class.",
        labels=["state", "failure_class"],
    )
    ended = Attempt.objects.filter(only, finished_at__gte=month.start)
    for row in ended.values("state", "failure_class").annotate(attempts=Count("pk")).order_by():
        family.add_metric([row["state"], row["failure_class"]], row["attempts"])
    return family


def step_rates(team: Team | None) -> Metric:
    family = GaugeMetricFamily(
        "finetune_hub_steps_per_second", "Optimizer steps per second on the worker.", labels=["worker"]
    )
    with connection.cursor() as cursor:
        cursor.execute(STEP_RATES, {"team": team.pk if team else None})
        for name, rate in cursor.fetchall():
            family.add_metric([name], rate)
    return family


def publications(month: Month, only: Q) -> Metric:
    """Return the time from a trainer's last event until its adapter was verified, stored and published."""
    took = ExpressionWrapper(F("attempt__finished_at") - F("attempt__progress_at"), output_field=DurationField())
    known = Publication.objects.filter(only, attempt__finished_at__gte=month.start, attempt__progress_at__isnull=False)
    within = {
        f"within_{limit}": Count("pk", filter=Q(took__lte=timedelta(seconds=limit))) for limit in PUBLICATION_BUCKETS
    }
    row = known.annotate(took=took).aggregate(**within, all=Count("pk"), total=Sum("took"))
    buckets = [(str(float(limit)), row[f"within_{limit}"]) for limit in PUBLICATION_BUCKETS]
    family = HistogramMetricFamily(
        "finetune_hub_publication_seconds",
        "Time from a trainer's last event until its adapter was verified, stored and published, this month.",
    )
    total = row["total"].total_seconds() if row["total"] else 0.0
    family.add_metric([], buckets=[*buckets, ("+Inf", row["all"])], sum_value=total)
    return family


def machines() -> Iterator[Metric]:
    heartbeat = GaugeMetricFamily(
        "finetune_hub_worker_heartbeat_age_seconds", "Time since the last heartbeat.", labels=["worker", "version"]
    )
    healthy = GaugeMetricFamily(
        "finetune_hub_worker_healthy", "1: the worker can take jobs.", labels=["worker", "health"]
    )
    for worker in Worker.objects.with_health():
        word = worker.health()[0]
        heartbeat.add_metric([worker.name, worker.version], worker.heartbeat_age.total_seconds())
        healthy.add_metric([worker.name, word], float(word == "healthy"))
    yield heartbeat
    yield healthy
    devices = GaugeMetricFamily("finetune_hub_device_held", "1: a job holds the device.", labels=["worker", "device"])
    is_held = Exists(DeviceUse.objects.filter(device=OuterRef("pk"), released_at=None))
    for worker_name, kind, index, held in Device.objects.filter(present=True).values_list(
        "worker__name", "kind", "index", is_held
    ):
        devices.add_metric([worker_name, f"{kind}:{index}"], float(held))
    yield devices


def round_ages() -> Metric:
    family = GaugeMetricFamily(
        "finetune_hub_control_round_age_seconds", "Time since control last finished the round.", labels=["round"]
    )
    for done in Round.objects.with_age():
        family.add_metric([done.name], done.age.total_seconds())
    return family
