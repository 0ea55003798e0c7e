"""The hub's health in words: one finding per part of the hub, each with what to do about it.

Slow checks (the artifact store may be far away) run in control's `probe` round; this module only reads their result.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import redis
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Coalesce, Now

from finetune_hub.accounts.models import User
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.fleet import connection_limits
from finetune_hub.fleet.models import Device, Worker
from finetune_hub.fleet.refused_requests import HOW_TO_SEE, refused_requests
from finetune_hub.fleet.worker_role import invited_workers, open_large_object_functions
from finetune_hub.jobs.fan_out import ping_redis
from finetune_hub.jobs.models import Attempt, AttemptState, Job, JobState, wait_of_job
from finetune_hub.jobs.news import tell_of
from finetune_hub.machine.paths_in_text import without_paths
from finetune_hub.operations.models import Round, RoundName
from finetune_hub.scheduling.placement.reasons import NO_DEVICE
from finetune_hub.spec.ids import new_id
from finetune_hub.spec.sizes import size_in_words

Level = Literal["ok", "warning", "bad"]

LEVELS: tuple[Level, ...] = ("ok", "warning", "bad")
NO_PROGRESS_AFTER = timedelta(minutes=30)
VALIDATING_FOR = timedelta(minutes=5)
WAITING_FOR = timedelta(hours=1)
LONG_ROUND = timedelta(minutes=10)
TOLD_AT_ONCE = 100
REFUSED_WITHIN, REFUSED_SHOWN = timedelta(days=1), 10
GB = 10**9
# Free disk space below which a disk counts as low, and as full.
LOW_BYTES, FULL_BYTES = 10 * GB, 1 * GB
LOG_OF_CONTROL = "Check control's log, then restart it: `finetune-hub up`, or its Celery worker with `--beat-thread`."


@dataclass(frozen=True)
class Finding:
    """The state of one part, and what to do if something is wrong."""

    part: str
    level: Level
    message: str
    remedy: str = ""


def look() -> list[Finding]:
    """Return all findings, the worst first."""
    checks = (
        check_postgres,
        check_redis,
        check_rounds,
        check_disks,
        check_workers,
        check_roles,
        check_versions,
        check_jobs,
    )
    findings = [finding for check in checks for finding in check()]
    return sorted(findings, key=lambda finding: -LEVELS.index(finding.level))


def look_as(user: User) -> list[Finding]:
    """Return all findings as the user may read them: only the hub's staff see folders of its machine."""
    if user.is_staff:
        return look()
    return [
        replace(finding, message=without_paths(finding.message), remedy=without_paths(finding.remedy))
        for finding in look()
    ]


def worst_of(findings: Iterable[Finding]) -> Level:
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def check_postgres() -> Iterator[Finding]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        yield Finding("Postgres", "bad", f"It does not respond: {error}.", "Check DATABASE_URL and the server.")
    else:
        yield Finding("Postgres", "ok", "It responds.")


def check_redis() -> Iterator[Finding]:
    try:
        ping_redis()
    except (redis.RedisError, OSError) as error:
        yield Finding(
            "Redis",
            "bad",
            f"It does not respond: {error}. No data is lost, but jobs start later and pages update more slowly.",
            "Check REDIS_URL and the server.",
        )
    else:
        yield Finding("Redis", "ok", "It responds.")


# ---- what control does


def check_rounds() -> Iterator[Finding]:
    """Check whether control makes its rounds, and what they found."""
    done = {row.name: row for row in Round.objects.with_age()}
    for name, part, every in (
        (RoundName.RECONCILE, "Reconciler", settings.RECONCILE_EVERY),
        (RoundName.PROBE, "Artifact store", settings.PROBE_EVERY),
        (RoundName.DELIVER, "Notifications", settings.DELIVER_EVERY),
        (RoundName.TIDY, "Retention", settings.TIDY_EVERY),
    ):
        row = done.get(name)
        if row is None:
            level: Level = "warning" if every < LONG_ROUND else "ok"  # A new hub has not had long rounds yet.
            remedy = "" if level == "ok" else f"Wait a moment. {LOG_OF_CONTROL}"
            yield Finding(part, level, f"Not checked yet; control does it every {every.total_seconds():g} s.", remedy)
        elif row.age > 3 * every + timedelta(seconds=30):
            last, due = row.age.total_seconds(), every.total_seconds()
            message = f"Control's last round was {last:.0f} s ago; one is due every {due:g} s."
            yield Finding(part, "bad", message, LOG_OF_CONTROL)
        elif row.problem:
            yield Finding(part, "bad", row.problem)
        else:
            yield Finding(part, "ok", f"OK {row.age.total_seconds():.0f} s ago.")


def probe_artifacts() -> str:
    """Write, read and delete a small file in the artifact store. Returns what is wrong, or an empty string."""
    key, sent = f"probes/{new_id('probe')}", b"finetune_hub\n"
    try:
        store = shared_store(settings.ARTIFACT_URL)
        with tempfile.NamedTemporaryFile() as file:
            file.write(sent)
            file.flush()
            store.put(key, Path(file.name))
        with store.open(key) as stored:
            received = stored.read()
        store.delete(key)
    except (ArtifactError, OSError) as failed:
        error = failed.message if isinstance(failed, ArtifactError) else failed
        return f"A file cannot be written, read and deleted: {error} Check ARTIFACT_URL, its credentials and its disk."
    if received != sent:
        return "A file was not read back as it was written. Check what else writes to ARTIFACT_URL."
    return ""


# ---- disks


def check_disks() -> Iterator[Finding]:
    """Check the disks of this process; workers report their own."""
    folders = {"The hub's home": settings.HOME}
    store = store_folder()
    if store is not None:
        folders["The artifact store"] = store
    seen: set[int] = set()
    for name, folder in folders.items():
        place = next(path for path in (folder, *folder.parents) if path.exists())
        if (disk := place.stat().st_dev) in seen:
            continue  # Both are on one disk; report it once.
        seen.add(disk)
        yield disk_finding(name, shutil.disk_usage(place).free)


def store_folder() -> Path | None:
    try:
        store: ArtifactStore = shared_store(settings.ARTIFACT_URL)
    except ArtifactError:
        return None  # The probe reports it.
    return store.local_folder("probes")


def disk_finding(name: str, free_bytes: int) -> Finding:
    message = f"{name} has {size_in_words(free_bytes)} free."
    remedy = "Free some space, or lower FINETUNE_HUB_KEEP_CHECKPOINTS_DAYS; see docs/operations.md."
    if free_bytes < FULL_BYTES:
        return Finding("Disk", "bad", message, remedy)
    if free_bytes < LOW_BYTES:
        return Finding("Disk", "warning", message, remedy)
    return Finding("Disk", "ok", message)


# ---- the fleet


def check_workers() -> Iterator[Finding]:
    workers = list(Worker.objects.in_fleet().with_health().order_by("name"))
    if not workers:
        yield Finding("Workers", "bad", "No worker has joined.", "Start one with `finetune-hub up`.")
        return
    unwell = {worker: worker.health() for worker in workers}
    for worker, (word, sentence) in unwell.items():
        if word in {"offline", "unhealthy"}:
            remedy = "Restart it, or remove it on the Workers page if it is gone for good."
            yield Finding("Workers", "bad", f"{worker.name} is {word}. {sentence}", remedy)
    healthy = sum(word == "healthy" for word, _ in unwell.values())
    if healthy == 0:
        yield Finding("Workers", "bad", "No worker can take jobs.", "Start one, or resume one on the Workers page.")
    else:
        yield Finding("Workers", "ok", f"{healthy} of {len(workers)} can take jobs.")
    for device in Device.objects.filter(present=True, worker__in=workers).exclude(quarantined_at=None):
        message = f"{device.worker.name}, {device.kind} {device.index}: {device.quarantine_reason}"
        yield Finding("Devices", "bad", message, "Fix it, then release it on the Workers page.")


def check_roles() -> Iterator[Finding]:
    """Check what the database roles of workers on other machines could do to the hub, and what they tried."""
    if not invited_workers().exists():
        return
    at_most = connection_limits.for_all_workers()
    limits = [limit for _, limit in connection_limits.limits_in_force().values()]
    if -1 in limits or sum(limits) > at_most:
        together = "any number of" if -1 in limits else str(sum(limits))
        yield Finding(
            "Connections",
            "bad",
            f"The roles of workers may open {together} connections to Postgres together, and there are {at_most} for "
            "them: they could take those of the hub.",
            "Control lowers their limits within a minute. If this remains, raise `max_connections` of Postgres and "
            "restart it, or revoke a worker that is gone.",
        )
    for name, (need, limit) in sorted(connection_limits.short_of_connections().items()):
        yield Finding(
            "Connections",
            "warning",
            f"{name} may need {need} connections to Postgres for its devices, and may open {limit}.",
            "Raise `max_connections` of Postgres and restart it, or revoke a worker that is gone.",
        )
    if functions := open_large_object_functions():
        statement = f"REVOKE EXECUTE ON FUNCTION {', '.join(functions)} FROM PUBLIC;"
        yield Finding(
            "Large objects",
            "warning",
            "Workers on other machines may create large objects in Postgres, and so fill its disk. Only a superuser of "
            "Postgres can close this.",
            f"Let one run this in the hub's database: `{statement}`",
        )
    yield from check_refused_requests()


def check_refused_requests() -> Iterator[Finding]:
    """Report what workers on other machines asked Postgres for and may not have."""
    refused = refused_requests(within=REFUSED_WITHIN)
    if refused is None:
        yield Finding("Refused requests", "ok", "What Postgres refuses to workers cannot be seen here.", HOW_TO_SEE)
        return
    for each in refused[-REFUSED_SHOWN:]:
        times = "once" if each.times == 1 else f"{each.times} times"
        yield Finding(
            "Refused requests",
            "warning",
            f"Postgres refused {each.worker_name} {times} in the last day: {each.what}. Last: {each.last_at:%H:%M}.",
            "Our own worker is only refused when it writes after it has lost its lease (row-level security). If it is "
            "something else, and nobody tried it by hand, revoke the worker and check its machine.",
        )
    if len(refused) > REFUSED_SHOWN:
        more = f"{len(refused) - REFUSED_SHOWN} more; see the log of Postgres."
        yield Finding("Refused requests", "warning", more)


def check_versions() -> Iterator[Finding]:
    """Check that all workers run the hub's version; a worker may be one release older."""
    ours = version("finetune_hub")
    for worker in Worker.objects.in_fleet().exclude(version=ours).order_by("name"):
        yield Finding(
            "Versions",
            "warning",
            f"{worker.name} runs version {worker.version}, and the hub runs {ours}.",
            "Drain it, upgrade it, and restart it.",
        )


# ---- jobs


def check_jobs() -> Iterator[Finding]:
    """Find stuck jobs. The findings do not mention their teams."""
    silent = Attempt.objects.filter(state=AttemptState.RUNNING).alias(moved_at=Coalesce("progress_at", "started_at"))
    stuck = silent.filter(moved_at__lt=Now() - NO_PROGRESS_AFTER).select_related("worker")
    for name in sorted({attempt.worker.name for attempt in stuck}):
        message = f"A job on {name} has reported nothing for {NO_PROGRESS_AFTER.total_seconds() / 60:.0f} minutes."
        yield Finding("Jobs", "warning", message, "Check the log on its page; cancel it if it is stuck.")
    unlooked = Job.objects.filter(state=JobState.VALIDATING, not_before__lt=Now() - VALIDATING_FOR).count()
    if unlooked:
        yield Finding("Jobs", "bad", f"Jobs waiting for control to validate them: {unlooked}.", LOG_OF_CONTROL)
    waiting = jobs_without_a_device().count()
    if waiting:
        message = f"Jobs waiting for an hour without a suitable device: {waiting}."
        remedy = "Their pages say what is missing. Start a worker that has it, or resume one on the Workers page."
        yield Finding("Jobs", "bad", message, remedy)
    if not (stuck or unlooked or waiting):
        yield Finding("Jobs", "ok", "No job is stuck.")


def jobs_without_a_device() -> QuerySet[Job]:
    """Return jobs that have waited for an hour and for which no device is suitable, busy or not."""
    waiting = Job.objects.filter(state=JobState.QUEUED, not_before__lt=Now() - WAITING_FOR)
    return waiting.alias(wait=wait_of_job()).filter(wait=NO_DEVICE)


@transaction.atomic
def tell_of_waiting_jobs() -> None:
    """Notify the people of such jobs, once per wait."""
    for job in jobs_without_a_device().select_related("team", "created_by").order_by("not_before")[:TOLD_AT_ONCE]:
        message = f"It has waited for an hour. {job.waiting_reason}"
        tell_of(job, "waiting for a device", message, is_problem=True, key=f"waits:{job.not_before.isoformat()}")
