"""The scheduler, one pass at a time: read jobs, devices and teams, call the pure `place_jobs`, write its decisions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Case, Count, Exists, F, OuterRef, Prefetch, Q, Subquery, When
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Now

from finetune_hub.fleet.models import Device, Worker
from finetune_hub.fleet.pokes import poke_worker
from finetune_hub.fleet.worker_role import invited_workers
from finetune_hub.jobs.expectations import expected_end, seconds_left
from finetune_hub.jobs.fan_out import announce_all
from finetune_hub.jobs.kinds.kind import KINDS
from finetune_hub.jobs.lifecycle import lock_job, preempt
from finetune_hub.jobs.models import Attempt, AttemptState, DesiredState, DeviceUse, Job, JobState
from finetune_hub.jobs.team_use import uses_of_teams
from finetune_hub.scheduling.placement import situation
from finetune_hub.scheduling.placement.placing import Placements, place_jobs
from finetune_hub.scheduling.placement.reasons import Wait

SCHEDULER_LOCK = 0x46485343  # Any fixed number: the key of the advisory lock.
LOOKED_AT_JOBS = 10_000
MAX_PREEMPTIONS = 3  # Per job; after that it may run to its end.


@transaction.atomic
def schedule_pass() -> int:
    """Assign waiting jobs to free devices and record why the others wait. Returns the number of new attempts.

    It waits for a running pass instead of giving up, because that pass may have read the queue too early.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SCHEDULER_LOCK])
    queue = waiting_jobs()
    if not queue:
        return 0
    # Locked, so that a worker gets no job from a pass that began before a completed call to drain it.
    workers = {worker.pk: worker for worker in Worker.objects.fit_for_work().select_for_update(no_key=True)}
    now = database_now()
    known = devices(workers)
    invited = set(Worker.objects.filter(name__in=invited_workers()).values_list("pk", flat=True))
    barred = frozenset(device.device_id for device in known if device.worker_id in invited)
    holders = holders_of_base_models(workers.values())
    planned = place_jobs(
        situation.Situation(
            now=now.timestamp(),
            next_month=month_after(now).timestamp(),
            queue=[as_waiting(job, barred, holders) for job in queue],
            devices=known,
            runs=runs(now),
            teams=[use.as_share() for use in uses_of_teams()],
        )
    )
    lock_rows(planned)
    for assignment in planned.assignments:
        if assign(assignment):
            poke_worker(workers[assignment.worker_id])
    for preemption in planned.preemptions:
        preempt(Attempt.objects.get(pk=preemption.attempt_id), "A job of higher priority needs its devices.")
    write_reasons(queue, planned.waits)
    return len(planned.assignments)


# ---- reading


def waiting_jobs() -> list[Job]:
    """Return the head of the queue without long documents: only the parts of the spec that placement needs."""
    active = Attempt.objects.active().filter(job=OuterRef("pk"))
    wishes: dict[str, Any] = {
        f"runtime_{name}": KeyTransform(name, "spec__runtime") for name in ("gpus", "device", "labels")
    }
    wishes["revision"] = F("base_model__revision")
    last = (
        Attempt.objects.filter(job=OuterRef("pk"))
        .order_by("-number")
        .values(lost_on=Case(When(state=AttemptState.LOST, then="worker")))
    )
    wishes["avoided_worker"] = Subquery(last[:1])
    placed = [name for name, kind in KINDS.items() if kind.needs_device]
    rows = (
        Job.objects.in_queue_order()
        .filter(kind__in=placed)
        .exclude(Exists(active))
        .annotate(**wishes)
        .defer("spec", "result")
    )
    return list(rows[:LOOKED_AT_JOBS])


def holders_of_base_models(workers: Iterable[Worker]) -> dict[str, frozenset[int]]:
    """Return base model revision → workers that have it in their cache."""
    holders: defaultdict[str, set[int]] = defaultdict(set)
    for worker in workers:
        for revision in worker.cached_revisions or ():
            holders[revision].add(worker.pk)
    return {revision: frozenset(found) for revision, found in holders.items()}


def as_waiting(job: Any, barred: frozenset[int], holders: Mapping[str, frozenset[int]]) -> situation.WaitingJob:
    """Convert a row of `waiting_jobs` for placement.

    Args:
        barred: devices of workers with their own database role, for kinds that need a trusted worker.
        holders: workers by the base models in their caches.
    """
    return situation.WaitingJob(
        job_id=job.pk,
        team_id=job.team_id,
        queued_at=job.requested_at.timestamp(),
        devices=job.runtime_gpus or 1,
        memory_bytes=job.memory_bytes_needed or 0,
        wish=job.runtime_device or "",
        labels=frozenset(job.runtime_labels or ()),
        priority=job.priority,
        expected_seconds=seconds_left(job.expected_seconds, job.step, job.total_steps),
        prefers_cpu=not job.of_kind.needs_gpu,
        excluded_devices=frozenset(job.excluded_devices),
        barred_devices=barred if job.of_kind.needs_trusted_worker else frozenset(),
        preferred_workers=holders.get(job.revision, frozenset()),
        avoided_worker=job.avoided_worker,
    )


def devices(fit_for_work: dict[int, Worker]) -> list[situation.Device]:
    """Return all devices, and an import slot next to each worker's devices.

    Devices of a worker that is not among the given ones are away.
    """
    found = Device.objects.lendable().select_related("worker").order_by("pk")
    known = [
        situation.Device(
            device_id=device.pk,
            worker_id=device.worker_id,
            worker=device.worker.name,
            kind=device.kind,
            name=device.name,
            memory_bytes=device.memory_bytes,
            labels=frozenset(device.worker.labels),
            is_shared=device.is_shared,
            max_runs=device.max_runs,
            away="" if device.worker_id in fit_for_work else why_away(device.worker),
        )
        for device in found
    ]
    beside = {device.worker_id: device for device in known}
    places = [
        replace(
            device,
            device_id=place_for_imports(worker_id),
            kind=situation.IMPORTS,
            name="import slot",
            memory_bytes=0,
            is_shared=False,
        )
        for worker_id, device in beside.items()
    ]
    return known + places


def place_for_imports(worker_id: int) -> int:
    """Return the id of a worker's import slot in placement; negative, because ids of rows are positive."""
    return -worker_id


def why_away(worker: Worker) -> str:
    return "drained" if worker.drain_requested else "offline or unhealthy"


def runs(now: datetime) -> list[situation.Run]:
    """Return the attempts that hold devices."""
    held = Prefetch(
        "device_uses", DeviceUse.objects.filter(released_at=None).select_related("device").order_by("device_id")
    )
    preempted = Count("job__attempts", Q(job__attempts__state=AttemptState.PREEMPTED))
    rows = Attempt.objects.active().select_related("job").prefetch_related(held).annotate(earlier_preemptions=preempted)
    return [as_run(attempt, now) for attempt in rows.defer("log_tail", "job__spec", "job__result")]


def as_run(attempt: Attempt, now: datetime) -> situation.Run:
    job, uses = attempt.job, list(attempt.device_uses.all())
    started_at = attempt.started_at or attempt.assigned_at
    left = seconds_left(job.expected_seconds, attempt.resumed_from_step, job.total_steps)
    return situation.Run(
        attempt_id=attempt.pk,
        team_id=job.team_id,
        device_ids=tuple(use.device_id for use in uses) or (place_for_imports(attempt.worker_id),),
        memory_bytes=uses[0].memory_bytes if uses else None,
        share=uses[0].share if uses else 0.0,
        started_at=started_at.timestamp(),
        expected_end=expected_end(started_at, now, job.eta_seconds, left),
        priority=job.priority,
        may_be_preempted=may_be_preempted(attempt),
    )


def may_be_preempted(attempt: Any) -> bool:
    """Return whether it resumes from checkpoints, is not stopping, and was not preempted too often."""
    job = attempt.job
    is_steady = job.of_kind.goes_on_from_checkpoints and job.desired_state == DesiredState.RUN and not attempt.stop_wish
    return is_steady and attempt.earlier_preemptions < MAX_PREEMPTIONS


def database_now() -> datetime:
    with connection.cursor() as cursor:
        cursor.execute("SELECT now()")
        now: datetime = cursor.fetchone()[0]
    return now


def month_after(moment: datetime) -> datetime:
    """Return the start of the next month in UTC."""
    moment = moment.astimezone(UTC)
    year, month = (moment.year + 1, 1) if moment.month == 12 else (moment.year, moment.month + 1)
    return datetime(year, month, 1, tzinfo=UTC)


# ---- writing


def lock_rows(planned: Placements) -> None:
    """Lock the rows that the pass will write: jobs, then devices, each in the order of their keys.

    All code that locks several rows uses this order, which prevents deadlocks. Code that ends a job also locks the jobs
    that start after it, but those are not in the queue before that job has ended.
    """
    stopped = Attempt.objects.filter(pk__in=[preemption.attempt_id for preemption in planned.preemptions])
    started = [assignment.job_id for assignment in planned.assignments]
    jobs = Job.objects.filter(Q(pk__in=started) | Q(pk__in=stopped.values("job")))
    devices = Device.objects.filter(pk__in=[pk for each in planned.assignments for pk in each.device_ids])
    for rows in (jobs, devices):
        list(rows.order_by("pk").select_for_update(no_key=True).values_list("pk"))


def assign(assignment: situation.Assignment) -> bool:
    """Create the attempt. Returns False if the job was cancelled or paused since the queue was read."""
    job = lock_job(assignment.job_id)
    if job.state != JobState.QUEUED:
        return False
    attempt = Attempt.objects.create(
        job=job,
        number=job.attempts.count() + 1,
        worker_id=assignment.worker_id,
        lease_expires_at=Now() + settings.CLAIM_WITHIN,
    )
    DeviceUse.objects.bulk_create(
        DeviceUse(attempt=attempt, device_id=pk, memory_bytes=assignment.memory_bytes)
        for pk in assignment.device_ids
        if pk != place_for_imports(assignment.worker_id)
    )
    return True


WRITE_REASONS = """
    UPDATE jobs_job SET waiting_reason = new.reason, waiting_code = new.code, expected_start_at = new.start
    FROM unnest(%s::text[], %s::text[], %s::text[], %s::timestamptz[]) AS new(id, reason, code, start)
    WHERE jobs_job.id = new.id AND jobs_job.state = 'queued'"""


def write_reasons(queue: Sequence[Job], waits: Mapping[str, Wait]) -> None:
    """Write the reasons that changed since the last pass, and announce them."""
    changed = [
        (job.pk, wait.sentence, wait.code, start)
        for job in queue
        if (wait := waits.get(job.pk))
        and (start := moment_of(wait), wait.sentence) != (job.expected_start_at, job.waiting_reason)
    ]
    if changed:
        with connection.cursor() as cursor:
            cursor.execute(WRITE_REASONS, [list(column) for column in zip(*changed, strict=True)])
        announce_all([row[0] for row in changed])


def moment_of(wait: Wait) -> datetime | None:
    return None if wait.expected_start is None else datetime.fromtimestamp(wait.expected_start, UTC)
