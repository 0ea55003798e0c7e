"""What all kinds of job share at submission: datasets, queue position and idempotency key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError, transaction

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, may, require_right
from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.fleet.pokes import poke_control
from finetune_hub.jobs.held_inputs import hold_inputs
from finetune_hub.jobs.kinds.kind import Kind
from finetune_hub.jobs.lifecycle import EventDraft, add_events, lock_job
from finetune_hub.jobs.models import HIGHEST_PRIORITY, LOWEST_PRIORITY, Job, JobDataset, JobState
from finetune_hub.spec.refusal import Refusal


def create_job(
    kind: type[Kind],
    *,
    team: Team,
    created_by: User,
    spec: dict[str, Any],
    choices: Sequence[tuple[DatasetVersion, float]] = (),
    idempotency_key: str | None = None,
    said: str = "Submitted.",
    **columns: Any,
) -> Job:
    """Put a job in the queue, or return the job that the same idempotency key created before.

    Callers check the right to submit before they write anything; for a child (`parent`), that was done with its parent.

    Args:
        choices: dataset versions that it reads, and how often the rows of each are drawn.
        said: the first line of its history.
        columns: other columns of `Job`.

    Raises:
        Refusal: `forbidden`, `deleted_meanwhile`, `idempotency_key_reused`.
    """
    if columns.get("parent") is None:
        require_right(Right.SUBMIT_JOB, created_by, team)
    try:
        with transaction.atomic():
            hold_inputs(
                base_model=columns.get("base_model"),
                versions=[version for version, _ in choices],
                adapter_version=columns.get("adapter_version"),
            )
            job = Job.objects.create(
                kind=kind.name, team=team, created_by=created_by, spec=spec, idempotency_key=idempotency_key, **columns
            )
            JobDataset.objects.bulk_create(
                JobDataset(job=job, dataset_version=version, position=position, weight=weight)
                for position, (version, weight) in enumerate(choices)
            )
            add_events(job, [EventDraft(said)], actor=created_by)
            poke_control("validate", job.pk)
            return job
    except IntegrityError:
        if idempotency_key is None:
            raise
    return same_again(Job.objects.get(team=team, idempotency_key=idempotency_key), spec)


def same_again(job: Job, spec: dict[str, Any]) -> Job:
    """Return the job that the idempotency key created the first time.

    Raises:
        Refusal: `idempotency_key_reused`.
    """
    if job.deletion_id is not None:
        raise Refusal(
            "idempotency_key_reused",
            f"The idempotency key was used before, for job {job.pk}, which was deleted.",
            "Restore that job from the team's trash, or use a fresh key for a new one.",
            field="Idempotency-Key",
            kind="conflict",
        )
    if job.spec != spec:
        raise Refusal(
            "idempotency_key_reused",
            f"The idempotency key was already used for a different spec: job {job.pk}.",
            "Use a new key for a new job.",
            field="Idempotency-Key",
            kind="conflict",
        )
    return job


def check_priority(team: Team, user: User, priority: int) -> None:
    """Check that the user may give a job of the team this priority: see docs/adr/0006.

    Raises:
        Refusal: `priority_not_allowed`.
    """
    if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise Refusal(
            "priority_not_allowed",
            f"The priority must be a number from {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}, not {priority}.",
            "Use 0 for the usual priority; higher ones come first.",
            field="priority",
        )
    if priority > 0 and not may(Right.RAISE_PRIORITY, user, team):
        raise Right.RAISE_PRIORITY.refusal(code="priority_not_allowed", field="priority")


def require_not_deleted(job: Job) -> None:
    """Check that the job was not deleted in the meantime. The caller holds its row lock.

    Raises:
        Refusal: `deleted_meanwhile`.
    """
    if job.deletion_id is not None:
        raise Refusal(
            "deleted_meanwhile", f"{job.pk} was deleted.", "Restore it from the team's trash.", kind="conflict"
        )


def lock_predecessor(team: Team, job_id: str) -> Job:
    """Return the job that another one waits for, locked, so that it cannot fail before the other one is created.

    Raises:
        Refusal: `unknown_job`, `deleted_meanwhile`, `wrong_job_state`.
    """
    if not Job.objects.of_team(team).filter(pk=job_id).exists():
        raise Refusal(
            "unknown_job",
            f"The team has no job {job_id!r} to start after.",
            "List its jobs with `finetune-hub jobs list`.",
            field="after",
        )
    job = lock_job(job_id)
    require_not_deleted(job)
    if job.has_ended and job.state != JobState.SUCCEEDED:
        raise Refusal(
            "wrong_job_state",
            f"{job_id} is {job.state}, so a job after it would never start.",
            "Retry it first, or omit `after`.",
            field="after",
            kind="conflict",
        )
    return job
