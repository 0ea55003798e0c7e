"""The only interface through which a worker writes: register, beat, claim, renew, report, publish, end.

Everything after the claim goes through `fenced`. It locks the attempt's row while its lease token is valid by the
database's clock; otherwise it raises `LeaseLost`, and the worker stops the trainer (P3).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import ProgrammingError, transaction
from django.db.models.functions import Now

from finetune_hub.catalog.models import BaseModel, BaseModelState
from finetune_hub.fleet.models import Device, DeviceSample, Worker
from finetune_hub.fleet.pokes import poke_control
from finetune_hub.jobs.fan_out import announce
from finetune_hub.jobs.lifecycle import (
    EventDraft,
    add_events,
    end_attempt,
    end_job,
    settle_failure,
    settle_stop,
    start_attempt,
)
from finetune_hub.jobs.models import (
    Attempt,
    AttemptState,
    Checkpoint,
    DesiredState,
    Job,
    JobState,
    MetricPoint,
    Publication,
)
from finetune_hub.registry import actions as registry
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec import events as engine_events
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.problem import Failed

log = logging.getLogger(__name__)

LOG_TAIL_CHARACTERS = 64_000
KEPT_CHECKPOINTS = 2
ETA_STEPS = 20  # The time left is estimated from the mean of this many newest steps.


class LeaseLost(Exception):
    """The attempt no longer belongs to this worker: its lease expired, or the attempt was ended elsewhere."""


@dataclass(frozen=True)
class Lease:
    """The right to write for one attempt."""

    attempt_id: int
    token: UUID
    job_id: str = ""
    """Only for the log."""


@dataclass(frozen=True)
class DeviceReport:
    """A device as detected by the worker."""

    kind: str
    index: int
    name: str
    memory_bytes: int
    cores: int | None = None


@dataclass(frozen=True)
class DeviceReading:
    """The current state of a device; None or empty: unknown."""

    kind: str
    index: int
    utilisation: float | None = None
    memory_used_bytes: int | None = None
    temperature_celsius: int | None = None
    driver: str = ""
    other_processes: int = 0
    fault: str = ""


# ---- the worker itself


@transaction.atomic
def register_worker(
    name: str, *, hostname: str, version: str, devices: Sequence[DeviceReport], labels: Sequence[str] = ()
) -> Worker:
    """Register the worker, or register it again. Devices that are no longer reported stay known, but get no work."""
    worker, _ = Worker.objects.update_or_create(
        name=name,
        defaults={
            "hostname": hostname,
            "version": version,
            "labels": list(labels),
            "heartbeat_at": Now(),
            "canary_at": Now(),
            "removed_at": None,
        },
    )
    worker.devices.update(present=False)
    for report in devices:
        Device.objects.update_or_create(
            worker=worker,
            kind=report.kind,
            index=report.index,
            defaults={"name": report.name, "memory_bytes": report.memory_bytes, "cores": report.cores, "present": True},
        )
    poke_control("schedule")
    return worker


def beat(worker: Worker, *, free_bytes: int | None = None, cached_revisions: Sequence[str] = ()) -> None:
    """Record that the worker's process is alive, its free disk space and the base models in its cache."""
    Worker.objects.filter(pk=worker.pk).update(
        heartbeat_at=Now(), free_bytes=free_bytes, cached_revisions=list(cached_revisions)
    )


@transaction.atomic
def record_readings(worker: Worker, readings: Sequence[DeviceReading]) -> None:
    """Store the devices' state. One with a fault gets no new job: it is quarantined until an admin releases it."""
    read = {(reading.kind, reading.index): reading for reading in readings}
    samples = []
    for device in worker.devices.filter(present=True).order_by("pk"):  # The scheduler's lock order.
        reading = read.get((device.kind, device.index))
        if reading is None:
            continue
        rows = Device.objects.filter(pk=device.pk)
        rows.update(
            driver=reading.driver,
            temperature_celsius=reading.temperature_celsius,
            other_processes=reading.other_processes,
        )
        if reading.fault and rows.filter(quarantined_at=None).update(
            quarantined_at=Now(), quarantine_reason=reading.fault
        ):
            log.error("%s %s of %s is quarantined: %s", device.kind, device.index, worker.name, reading.fault)
        samples.append(
            DeviceSample(device=device, utilisation=reading.utilisation, memory_used_bytes=reading.memory_used_bytes)
        )
    DeviceSample.objects.bulk_create(samples)


def consume_canary(name: str) -> None:
    """Record that the worker's queue is being consumed."""
    Worker.objects.filter(name=name).update(canary_at=Now())


def assigned_attempts(worker: Worker) -> list[int]:
    """Return the attempts that this worker should claim."""
    return list(
        Attempt.objects.filter(worker=worker, state=AttemptState.ASSIGNED, lease_expires_at__gt=Now())
        .order_by("assigned_at")
        .values_list("pk", flat=True)
    )


# ---- one attempt


@transaction.atomic
def claim_attempt(attempt_id: int, *, worker: Worker) -> Lease | None:
    """Move an assigned attempt to running. None: another process was first, or the claim deadline is over."""
    job = Job.objects.select_for_update(no_key=True, of=("self",)).get(attempts=attempt_id)
    token = uuid4()
    return Lease(attempt_id, token, job.pk) if start_attempt(job, attempt_id, worker=worker, token=token) else None


def renew_lease(lease: Lease) -> bool:
    """Extend the lease by its full length. Returns whether the trainer should stop.

    Raises:
        LeaseLost: too late.
    """
    num_updated = Attempt.objects.filter(
        pk=lease.attempt_id, lease_token=lease.token, state=AttemptState.RUNNING, lease_expires_at__gt=Now()
    ).update(lease_expires_at=Now() + settings.LEASE)
    if num_updated != 1:
        raise LeaseLost
    wishes = Attempt.objects.values_list("job__desired_state", "stop_wish").get(pk=lease.attempt_id)
    return wishes != (DesiredState.RUN, "")


@contextmanager
def fenced(lease: Lease) -> Iterator[tuple[Job, Attempt]]:
    """Open a transaction in which the lease is valid; the rows of the job and the attempt are locked.

    Raises:
        LeaseLost: the attempt ended, its lease expired, or the token does not match.
    """
    try:
        with transaction.atomic():
            job = Job.objects.select_for_update(no_key=True, of=("self",)).get(attempts=lease.attempt_id)
            attempt = (
                Attempt.objects.select_for_update(no_key=True, of=("self",))
                .select_related("worker")
                .filter(
                    pk=lease.attempt_id, lease_token=lease.token, state=AttemptState.RUNNING, lease_expires_at__gt=Now()
                )
                .first()
            )
            if attempt is None:
                raise LeaseLost
            yield job, attempt
    except ProgrammingError as error:
        if "row-level security" in str(error):  # It expired since, so a worker's own role may no longer write.
            raise LeaseLost from error
        raise


def events_offset(lease: Lease) -> int:
    """Return how many bytes of the attempt's event file are recorded."""
    return Attempt.objects.values_list("events_offset", flat=True).get(pk=lease.attempt_id)


def record_events(lease: Lease, events: Sequence[engine_events.EngineEvent], *, start: int, end: int) -> None:
    """Record the events between two offsets of the attempt's event file, once.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        if attempt.events_offset != start:  # Already recorded, before this worker restarted.
            return
        steps = [event for event in events if isinstance(event, engine_events.Step)]
        MetricPoint.objects.bulk_create(MetricPoint.of_step(attempt, step) for step in steps)
        drafts = [draft for event in events if (draft := describe(event))]
        if drafts:
            add_events(job, drafts, attempt=attempt)  # This also announces the job.
        else:
            announce(job.pk)
        Attempt.objects.filter(pk=attempt.pk).update(events_offset=end, progress_at=Now())
        for resolved in (event for event in events if isinstance(event, engine_events.Resolved)):
            _pin(job, resolved)
        _record_progress(job, attempt, events)


def describe(event: engine_events.EngineEvent) -> EventDraft | None:
    """Return the event as a line of the job's history; None for what the curve, progress bar or attempt's end show."""
    match event:
        case engine_events.Log():
            return EventDraft(event.message, event.level)
        case engine_events.Plan():
            again = f", from step {event.first_step}" if event.first_step else ""
            return EventDraft(
                f"{event.total_steps} steps over {event.rows} rows{again}: {event.trainable_parameters:,} of "
                f"{event.total_parameters:,} parameters are trained, in {event.dtype} on {event.device}."
            )
        case engine_events.Checkpointed():
            return EventDraft(f"Checkpoint at step {event.step}.")
        case engine_events.Evaluated():
            mark = ", the lowest so far" if event.is_best else ""
            return EventDraft(f"Held-out loss {event.loss:.4f} at step {event.step}{mark}.")
        case engine_events.Resolved():
            licence = event.license or "not given"
            return EventDraft(
                f"{event.repository} is at commit {event.commit}; access: {event.access}, license: {licence}."
            )
        case engine_events.Listening():
            return EventDraft(f"It can be reached at {event.address}.")
        case engine_events.Stopped():
            return EventDraft(f"Stopped at step {event.step}.")
    return None


def _pin(job: Job, found: engine_events.Resolved) -> None:
    """Store the commit that the job's source resolved to, so that its next attempt fetches the same."""
    if job.base_model:
        job.base_model.set_lookup(commit=found.commit, access=found.access, license_name=found.license)
    else:
        Job.objects.filter(pk=job.pk).update(spec=job.spec | {"commit": found.commit})


def _record_progress(job: Job, attempt: Attempt, events: Sequence[engine_events.EngineEvent]) -> None:
    changes: dict[str, Any] = {}
    for event in events:
        match event:
            case engine_events.Plan():
                changes |= {"total_steps": event.total_steps, "step": event.first_step, "progress_unit": "steps"}
            case engine_events.Step():
                changes["step"] = event.step
            case engine_events.Progress():
                changes |= {"step": event.done, "total_steps": event.total, "progress_unit": event.unit}
            case engine_events.Listening():
                changes["address"] = event.address
    if any(isinstance(event, engine_events.Step) for event in events):
        newest = attempt.metrics.order_by("-step").values_list("seconds", flat=True)[:ETA_STEPS]
        left = (changes.get("total_steps") or job.total_steps or changes["step"]) - changes["step"]
        changes["eta_seconds"] = left * fmean(newest)
    if changes:
        Job.objects.filter(pk=job.pk).update(**changes)


def record_log_tail(lease: Lease, text: str) -> None:
    """Store the last part of the engine's output for the job's page.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        Attempt.objects.filter(pk=attempt.pk).update(log_tail=text[-LOG_TAIL_CHARACTERS:].replace("\0", ""))
        announce(job.pk)


def record_checkpoint(lease: Lease, *, step: int, artifact_prefix: str, files: Sequence[FileEntry]) -> list[str]:
    """Record that a checkpoint is in the artifact store: from now on another attempt may resume from it.

    Returns the keys of the job's superseded checkpoints, for the caller to delete.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        Checkpoint.objects.get_or_create(
            attempt=attempt,
            step=step,
            defaults={
                "job": job,
                "artifact_prefix": artifact_prefix,
                "manifest": [file.model_dump() for file in files],
            },
        )
        superseded = list(job.checkpoints.order_by("-step", "-pk")[KEPT_CHECKPOINTS:])
        Checkpoint.objects.filter(pk__in=[checkpoint.pk for checkpoint in superseded]).delete()
        return [key for old in superseded for key in old.keys]


def record_resume(lease: Lease, step: int) -> None:
    """Record that the attempt starts from a checkpoint.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        Attempt.objects.filter(pk=attempt.pk).update(resumed_from_step=step)
        add_events(job, [EventDraft(f"Resuming from the checkpoint of step {step}.")], attempt=attempt)


# ---- the end of an attempt


def succeed(lease: Lease, result: dict[str, Any], message: str = "Done.") -> None:
    """End attempt and job if there is nothing left to publish (an evaluation, or a finished dataset version).

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        _succeed(job, attempt, result, message)


def publish_adapter(
    lease: Lease,
    *,
    artifact_prefix: str,
    files: list[FileEntry],
    result: dict[str, Any],
    verification: dict[str, Any],
    model_card: str,
) -> AdapterVersion:
    """Publish the trained adapter and end attempt and job, in one transaction.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        spec = job.training_spec()
        assert spec.adapter_name is not None  # Set when the job was submitted.
        step = int(result.get("published_step") or result["steps"])
        version = registry.add_version(
            team=job.team,
            name=spec.adapter_name,
            base_model=job.over,
            dataset_versions=job.dataset_versions.all(),
            files=files,
            method=spec.method.type,
            step=step,
            artifact_prefix=artifact_prefix,
            training_spec=spec.model_dump(mode="json", exclude_none=True),
            summary=result,
            verification=verification,
            model_card=model_card,
        )
        Publication.objects.create(job=job, attempt=attempt, step=step, adapter_version=version)
        _succeed(job, attempt, result, f"Published {version}, reloaded and compared with what was trained.")
        return version


def publish_base_model(lease: Lease, *, artifact_prefix: str, files: list[FileEntry], result: dict[str, Any]) -> None:
    """Make the imported base model ready and end attempt and job, in one transaction.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        base_model = BaseModel.objects.select_for_update().get(pk=job.base_model_id)
        assert base_model.state == BaseModelState.IMPORTING
        base_model.set_ready(artifact_prefix=artifact_prefix, files=files, facts=result["facts"])
        add_events(job, [EventDraft(warning, "warn") for warning in result["warnings"]], attempt=attempt)
        _succeed(job, attempt, result, f"The base model {base_model.name} is ready.")


def fail(lease: Lease, failed: Failed, result: dict[str, Any] | None = None) -> None:
    """End the attempt as failed; its job is retried, or fails too.

    Args:
        result: what was found out despite the failure.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        if result is not None:
            Job.objects.filter(pk=job.pk).update(result=result)
        settle_failure(job, attempt, AttemptState.FAILED, failed)
        poke_control("schedule")


def stop(lease: Lease, *, was_asked: bool, failed: Failed | None = None) -> None:
    """Record that the trainer stopped, on request or because of somebody on its machine.

    Raises:
        LeaseLost: see `fenced`.
    """
    with fenced(lease) as (job, attempt):
        settle_stop(job, attempt, was_asked=was_asked, failed=failed)
        poke_control("schedule")


def _succeed(job: Job, attempt: Attempt, result: dict[str, Any], message: str) -> None:
    end_attempt(attempt, AttemptState.SUCCEEDED)
    Job.objects.filter(pk=job.pk).update(result=result)
    end_job(job, JobState.SUCCEEDED, message)
    poke_control("schedule")
