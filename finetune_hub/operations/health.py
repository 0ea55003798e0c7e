"""What is wrong, in words: one finding a part of the hub, each with what to do about it.

What takes long (the artifact store may be far away) is tried by control in its `probe` round, and read here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import redis
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Coalesce, Now

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.fleet.models import Device, Worker
from finetune_hub.jobs.fan_out import ping_redis
from finetune_hub.jobs.models import Attempt, AttemptState, Job, JobState, wait_of_job
from finetune_hub.jobs.news import tell_of
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
GB = 10**9
# Of the free space of a disk: below these it is nearly full, and as good as full.
LOW_BYTES, FULL_BYTES = 10 * GB, 1 * GB
LOG_OF_CONTROL = (
    "Look at control's log, and start it again: `finetune-hub up`, or its Celery worker with `--beat-thread`."
)


@dataclass(frozen=True)
class Finding:
    """How one part is, and what to do when it is not well."""

    part: str
    level: Level
    message: str
    remedy: str = ""


def look() -> list[Finding]:
    """All findings, the worst first."""
    checks = (check_postgres, check_redis, check_rounds, check_disks, check_workers, check_versions, check_jobs)
    findings = [finding for check in checks for finding in check()]
    return sorted(findings, key=lambda finding: -LEVELS.index(finding.level))


def worst_of(findings: Iterable[Finding]) -> Level:
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def check_postgres() -> Iterator[Finding]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        yield Finding("Postgres", "bad", f"It does not answer: {error}.", "Check DATABASE_URL and the server.")
    else:
        yield Finding("Postgres", "ok", "It answers.")


def check_redis() -> Iterator[Finding]:
    try:
        ping_redis()
    except (redis.RedisError, OSError) as error:
        yield Finding(
            "Redis",
            "bad",
            f"It does not answer: {error}. Nothing is lost, but jobs start seconds later and pages do not live.",
            "Check REDIS_URL and the server.",
        )
    else:
        yield Finding("Redis", "ok", "It answers.")


# ---- what control does


def check_rounds() -> Iterator[Finding]:
    """Whether control does its rounds, and what they found."""
    done = {row.name: row for row in Round.objects.with_age()}
    for name, part, every in (
        (RoundName.RECONCILE, "Reconciler", settings.RECONCILE_EVERY),
        (RoundName.PROBE, "Artifact store", settings.PROBE_EVERY),
        (RoundName.DELIVER, "Notifications", settings.DELIVER_EVERY),
        (RoundName.TIDY, "Retention", settings.TIDY_EVERY),
    ):
        row = done.get(name)
        if row is None:
            level: Level = "warning" if every < LONG_ROUND else "ok"  # A new hub has not been up for so long.
            remedy = "" if level == "ok" else f"Wait a moment. {LOG_OF_CONTROL}"
            yield Finding(
                part, level, f"Control gets to it every {every.total_seconds():g} s, and has not yet.", remedy
            )
        elif row.age > 3 * every + timedelta(seconds=30):
            last, due = row.age.total_seconds(), every.total_seconds()
            message = f"Control did its last round {last:.0f} s ago; one is due every {due:g} s."
            yield Finding(part, "bad", message, LOG_OF_CONTROL)
        elif row.problem:
            yield Finding(part, "bad", row.problem)
        else:
            yield Finding(part, "ok", f"All was well {row.age.total_seconds():.0f} s ago.")


def probe_artifacts() -> str:
    """Write, read and delete a small file of the artifact store; what is wrong with it, or nothing."""
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
        return "What was written is not what was read. Check what else writes below ARTIFACT_URL."
    return ""


# ---- disks


def check_disks() -> Iterator[Finding]:
    """The disks that this process sees; those of the workers are the workers' to report."""
    folders = {"The hub's home": settings.HOME}
    store = store_folder()
    if store is not None:
        folders["The artifact store"] = store
    seen: set[int] = set()
    for name, folder in folders.items():
        place = next(path for path in (folder, *folder.parents) if path.exists())
        if (disk := place.stat().st_dev) in seen:
            continue  # Both on one disk: it is told of once.
        seen.add(disk)
        yield disk_finding(name, shutil.disk_usage(place).free)


def store_folder() -> Path | None:
    try:
        store: ArtifactStore = shared_store(settings.ARTIFACT_URL)
    except ArtifactError:
        return None  # The probe says so.
    return store.local_folder("probes")


def disk_finding(name: str, free_bytes: int) -> Finding:
    message = f"{name} has {size_in_words(free_bytes)} left."
    remedy = "Free some space, or shorten FINETUNE_HUB_KEEP_CHECKPOINTS_DAYS; see docs/operations.md."
    if free_bytes < FULL_BYTES:
        return Finding("Disk", "bad", message, remedy)
    if free_bytes < LOW_BYTES:
        return Finding("Disk", "warning", message, remedy)
    return Finding("Disk", "ok", message)


# ---- the fleet


def check_workers() -> Iterator[Finding]:
    workers = list(Worker.objects.in_fleet().with_health().order_by("name"))
    if not workers:
        yield Finding("Workers", "bad", "None has joined.", "Start one with `finetune-hub up`.")
        return
    unwell = {worker: worker.health() for worker in workers}
    for worker, (word, sentence) in unwell.items():
        if word in {"offline", "unhealthy"}:
            remedy = "Start it again, or remove it on the Workers page when it is gone for good."
            yield Finding("Workers", "bad", f"{worker.name} is {word}. {sentence}", remedy)
    healthy = sum(word == "healthy" for word, _ in unwell.values())
    if healthy == 0:
        yield Finding("Workers", "bad", "None takes jobs.", "Start one, or resume one on the Workers page.")
    else:
        yield Finding("Workers", "ok", f"{healthy} of {len(workers)} take jobs.")
    for device in Device.objects.filter(present=True, worker__in=workers).exclude(quarantined_at=None):
        message = f"{device.worker.name}, {device.kind} {device.index}: {device.quarantine_reason}"
        yield Finding("Devices", "bad", message, "Fix it, then release it on the Workers page.")


def check_versions() -> Iterator[Finding]:
    """Whether everybody speaks of the same things; a worker may be one release older."""
    ours = version("finetune_hub")
    for worker in Worker.objects.in_fleet().exclude(version=ours).order_by("name"):
        yield Finding(
            "Versions",
            "warning",
            f"{worker.name} runs {worker.version}, and the hub {ours}.",
            "Drain it, upgrade it, and start it again.",
        )


# ---- jobs


def check_jobs() -> Iterator[Finding]:
    """Jobs that stand still. Their teams are not told of here."""
    silent = Attempt.objects.filter(state=AttemptState.RUNNING).alias(moved_at=Coalesce("progress_at", "started_at"))
    stuck = silent.filter(moved_at__lt=Now() - NO_PROGRESS_AFTER).select_related("worker")
    for name in sorted({attempt.worker.name for attempt in stuck}):
        message = f"A job on {name} has reported nothing for {NO_PROGRESS_AFTER.total_seconds() / 60:.0f} minutes."
        yield Finding("Jobs", "warning", message, "Look at its log on its page; cancel it if it stands still.")
    unlooked = Job.objects.filter(state=JobState.VALIDATING, not_before__lt=Now() - VALIDATING_FOR).count()
    if unlooked:
        yield Finding("Jobs", "bad", f"{unlooked} wait to be looked at by control.", LOG_OF_CONTROL)
    waiting = jobs_without_a_device().count()
    if waiting:
        message = f"{waiting} have waited for an hour, and nothing that works fits."
        remedy = "Their pages say what is missing. Start a worker that has it, or resume one on the Workers page."
        yield Finding("Jobs", "bad", message, remedy)
    if not (stuck or unlooked or waiting):
        yield Finding("Jobs", "ok", "None stands still.")


def jobs_without_a_device() -> QuerySet[Job]:
    """Jobs that have waited for an hour, and that placement finds no device for, busy or not."""
    waiting = Job.objects.filter(state=JobState.QUEUED, not_before__lt=Now() - WAITING_FOR)
    return waiting.alias(wait=wait_of_job()).filter(wait=NO_DEVICE)


@transaction.atomic
def tell_of_waiting_jobs() -> None:
    """Once for each wait, tell the jobs' people that nothing will take them as things are."""
    for job in jobs_without_a_device().select_related("team", "created_by").order_by("not_before")[:TOLD_AT_ONCE]:
        message = f"It has waited for an hour. {job.waiting_reason}"
        tell_of(job, "waits for a device", message, is_problem=True, key=f"waits:{job.not_before.isoformat()}")
