"""The actions on an existing job, for page, API and CLI: pause, resume, preempt, cancel, retry, copy, set priority.

Each is recorded as an event with its actor and an optional reason. A request to a running trainer is stored, and its
worker reads it; a poke makes that happen within a second, and a lost poke only delays it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction

from finetune_hub.accounts.models import User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.tombstones import require_alive
from finetune_hub.fleet.pokes import poke_control, poke_worker
from finetune_hub.jobs.held_inputs import hold_inputs
from finetune_hub.jobs.lifecycle import (
    EventDraft,
    add_events,
    end_attempt,
    end_job,
    enqueue,
    lock_job,
    preempt,
    reopen_job,
    wrong_state,
)
from finetune_hub.jobs.models import Attempt, AttemptState, DesiredState, Job, JobState
from finetune_hub.jobs.submission import check_priority, require_not_deleted
from finetune_hub.spec.merge_patch import merge_patch
from finetune_hub.spec.refusal import Refusal


@transaction.atomic
def pause_job(job_id: str, user: User, *, reason: str = "") -> Job:
    """Pause the job. A waiting job pauses now; a running trainer writes a checkpoint first.

    Raises:
        Refusal: `forbidden`; `wrong_job_state`: it has ended, or is being cancelled.
    """
    job = lock_job(job_id)
    require_right(Right.PAUSE_JOB, user, job.team)
    if job.has_ended or job.is_stopping:
        raise wrong_state(job, "there is nothing to pause")
    if job.desired_state == DesiredState.PAUSE:
        return job
    attempt = _wish(job, DesiredState.PAUSE)
    for child in _unfinished_children(job):
        pause_job(child, user, reason=f"It is part of {job.pk}.")
    if attempt and attempt.state == AttemptState.RUNNING:
        add_events(job, [_said("Pausing: the trainer writes a checkpoint and stops.", reason)], actor=user)
        poke_worker(attempt.worker)
    elif job.state == JobState.VALIDATING:
        add_events(job, [_said("Pausing as soon as its rows have been checked.", reason)], actor=user)
    else:  # It waits, or needs no device.
        if attempt:
            end_attempt(attempt, AttemptState.PAUSED)
        enqueue(job, reason, actor=user)
    job.refresh_from_db()
    return job


@transaction.atomic
def resume_job(job_id: str, user: User, *, reason: str = "") -> Job:
    """Queue a paused job again, or withdraw the request to pause one that still runs. Idempotent.

    Raises:
        Refusal: `forbidden`; `wrong_job_state`: it has ended, or is being cancelled.
    """
    job = lock_job(job_id)
    require_right(Right.RESUME_JOB, user, job.team)
    if job.has_ended or job.is_stopping:
        raise wrong_state(job, "there is nothing to resume")
    if job.desired_state == DesiredState.RUN:
        return job
    attempt = _wish(job, DesiredState.RUN)
    for child in _unfinished_children(job):
        resume_job(child, user, reason=f"It is part of {job.pk}.")
    if job.state == JobState.PAUSED:
        enqueue(job, _said(f"Resumed. It will restart {job.next_start()}.", reason).message, actor=user)
        poke_control("schedule")
    else:
        add_events(job, [_said("Resumed before it had paused.", reason)], actor=user)
        if attempt:
            poke_worker(attempt.worker)
    job.refresh_from_db()
    return job


@transaction.atomic
def preempt_job(job_id: str, user: User, *, reason: str = "") -> Job:
    """Take a job's devices back: its trainer writes a checkpoint, and it returns to its old place in the queue.

    Raises:
        Refusal: `forbidden`; `wrong_job_state`: it is not running, or it is being paused or cancelled.
    """
    job = lock_job(job_id)
    require_right(Right.PREEMPT_JOB, user, job.team)
    attempt = job.attempts.active().first()
    if attempt is None or job.desired_state != DesiredState.RUN:
        raise wrong_state(job, "it has no device to give back")
    if preempt(attempt, reason or "An admin needs its device.", actor=user):
        poke_control("schedule")
    job.refresh_from_db()
    return job


@transaction.atomic
def cancel_job(job_id: str, user: User, *, reason: str = "") -> Job:
    """Cancel the job and its children. A waiting job ends now; a running trainer writes a checkpoint first.

    Raises:
        Refusal: `forbidden`.
    """
    job = lock_job(job_id)
    require_right(Right.CANCEL_JOB, user, job.team)
    if job.has_ended or job.desired_state == DesiredState.CANCEL:
        return job
    attempt = _wish(job, DesiredState.CANCEL)
    for child in _unfinished_children(job):
        cancel_job(child, user, reason=f"It is part of {job.pk}.")
    if attempt and attempt.state == AttemptState.RUNNING:
        said = "Ending." if job.of_kind.runs_until_told else "Cancelling: the trainer was asked to stop."
        add_events(job, [_said(said, reason)], actor=user)
        poke_worker(attempt.worker)
        return job
    if attempt:
        end_attempt(attempt, AttemptState.CANCELLED)
    when = "before it ran" if job.started_at is None else "while it waited"
    end_job(job, JobState.CANCELLED, _said(f"Cancelled {when}.", reason).message, actor=user)
    job.refresh_from_db()
    return job


@transaction.atomic
def retry_job(job_id: str, user: User, *, from_step: int | None = None, reason: str = "") -> Job:
    """Run a failed or cancelled job again: the same job, a new attempt, from a checkpoint.

    Args:
        from_step: the step of the checkpoint to start from; later ones are deleted. 0: from the beginning; None: from
            the newest one.

    Raises:
        Refusal: `forbidden`, `wrong_job_state`, `unknown_checkpoint`, `dataset_deleted`, `deleted_meanwhile`.
    """
    job = lock_job(job_id)
    require_right(Right.RETRY_JOB, user, job.team)
    if not job.may_retry:
        raise wrong_state(job, "only failed and cancelled jobs can be retried", "Clone it to train the same again.")
    if job.after and job.after.has_ended and job.after.state != JobState.SUCCEEDED:
        raise wrong_state(job.after, f"{job.pk} starts after it, and would fail again", "Retry that one first.")
    require_not_deleted(job)
    versions = list(job.dataset_versions.select_related("dataset"))
    for version in versions:
        require_alive(version)
    hold_inputs(base_model=job.base_model, versions=versions, adapter_version=job.adapter_version)
    job.of_kind.before_retry(job)
    if from_step is not None:
        _give_up_checkpoints(job, from_step)
    reopen_job(job, _said(f"Retried. It will start {job.next_start()}.", reason).message, actor=user)
    poke_control("validate", job.pk)
    job.refresh_from_db()
    return job


@transaction.atomic
def change_priority(job_id: str, user: User, priority: int) -> Job:
    """Change the priority of a job that has not ended.

    Raises:
        Refusal: `forbidden`, `priority_not_allowed`, `wrong_job_state`.
    """
    job = lock_job(job_id)
    require_right(Right.CHANGE_PRIORITY, user, job.team)
    check_priority(job.team, user, priority)
    if job.has_ended:
        raise wrong_state(job, "it is no longer waiting")
    if job.priority != priority:
        add_events(job, [EventDraft(f"Priority changed from {job.priority} to {priority}.")], actor=user)
        Job.objects.filter(pk=job.pk).update(priority=priority)
        poke_control("schedule")
    job.refresh_from_db()
    return job


def copied_spec(job: Job, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the spec of a copy of a job, with the same dataset versions and the changes applied.

    Args:
        changes: a merge patch (RFC 7396): `{"training": {"epochs": 3}}`.

    Raises:
        Refusal: `wrong_job_kind`.
    """
    document = job.readable_kind.spec_to_submit(job)
    if document is None:
        raise Refusal(
            "wrong_job_kind",
            f"{job.pk} is {job.of_kind.noun}, which has no spec to copy.",
            "Choose a training.",
            kind="conflict",
        )
    document["datasets"] = [
        {"name": use.dataset_version.dataset.name, "version": use.dataset_version.number, "weight": use.weight}
        for use in job.job_datasets.select_related("dataset_version__dataset")
    ]
    copied: dict[str, Any] = merge_patch(document, changes)
    return copied


def _wish(job: Job, wish: DesiredState) -> Attempt | None:
    """Store the request; return the active attempt, locked, or None."""
    job.desired_state = wish
    job.save(update_fields=["desired_state"])
    return job.attempts.active().select_for_update(no_key=True, of=("self",)).select_related("worker").first()


def _unfinished_children(job: Job) -> list[str]:
    """Return the ids of children that have neither ended nor been cancelled."""
    asked = job.children.filter(finished_at=None).exclude(desired_state=DesiredState.CANCEL)
    return list(asked.order_by("pk").values_list("pk", flat=True))


def _said(message: str, reason: str) -> EventDraft:
    return EventDraft(f"{message} {reason}".rstrip())


def _give_up_checkpoints(job: Job, from_step: int) -> None:
    """Delete the checkpoints after this step; 0 deletes all."""
    steps = list(job.checkpoints.order_by("step").values_list("step", flat=True))
    if from_step and from_step not in steps:
        raise Refusal(
            "unknown_checkpoint",
            f"{job.pk} has no checkpoint of step {from_step}.",
            f"Choose one of the steps {', '.join(map(str, steps))}, or 0 for the beginning." if steps else "Choose 0.",
            field="from_step",
        )
    later = job.checkpoints.filter(step__gt=from_step)
    transaction.on_commit(partial(_delete_files, [key for checkpoint in later for key in checkpoint.keys]))
    later.delete()


def _delete_files(keys: Sequence[str]) -> None:
    store = shared_store(settings.ARTIFACT_URL)
    for key in keys:
        store.delete(key)
