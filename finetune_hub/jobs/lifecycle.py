"""How jobs and attempts change state. Nothing else writes `.state`.

Every function here runs inside a transaction of its caller, who holds the job's row lock (`lock_job`). Locks are always
taken in the order job, attempt, so that two processes never wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings
from django.db.models import F
from django.db.models.functions import Now

from finetune_hub.accounts.models import User
from finetune_hub.catalog.models import BaseModel, BaseModelState
from finetune_hub.jobs.live import announce
from finetune_hub.jobs.models import (
    Attempt,
    AttemptState,
    DesiredState,
    DeviceUse,
    Job,
    JobEvent,
    JobKind,
    JobState,
)
from finetune_hub.jobs.news import tell_of
from finetune_hub.spec.events import FailureClass

RETRYABLE: frozenset[FailureClass] = frozenset({"worker_lost", "infrastructure"})
MAX_FRUITLESS_ATTEMPTS = 5
MAX_RETRY_DELAY_FACTOR = 32


@dataclass(frozen=True)
class Failed:
    """Why an attempt failed, and what the user can do."""

    failure_class: FailureClass
    message: str
    remedy: str


@dataclass(frozen=True)
class EventDraft:
    message: str
    level: str = "info"


def lock_job(job_id: str) -> Job:
    """The job, locked against other transitions until the transaction ends."""
    return Job.objects.select_for_update(no_key=True).get(pk=job_id)


def add_events(
    job: Job, drafts: Iterable[EventDraft], *, attempt: Attempt | None = None, actor: User | None = None
) -> None:
    """Number the events and add them; watchers are told after the commit."""
    drafts = list(drafts)
    job.refresh_from_db(fields=["event_count"])
    JobEvent.objects.bulk_create(
        JobEvent(job=job, number=number, attempt=attempt, actor=actor, level=draft.level, message=draft.message)
        for number, draft in enumerate(drafts, start=job.event_count + 1)
    )
    Job.objects.filter(pk=job.pk).update(event_count=F("event_count") + len(drafts))
    announce(job.pk)


def enqueue(job: Job, message: str) -> None:
    """validating or running → queued."""
    Job.objects.filter(pk=job.pk).update(state=JobState.QUEUED, waiting_reason="")
    add_events(job, [EventDraft(message)])


def start_job(job: Job, attempt: Attempt) -> None:
    """queued → running, when its attempt is claimed."""
    Job.objects.filter(pk=job.pk).update(state=JobState.RUNNING, waiting_reason="")
    Job.objects.filter(pk=job.pk, started_at=None).update(started_at=Now())
    add_events(job, [EventDraft(f"Attempt {attempt.number} started on {attempt.worker.name}.")], attempt=attempt)


def end_attempt(attempt: Attempt, state: AttemptState, failed: Failed | None = None) -> None:
    """An active attempt → an ended one; its devices are free at once, and its lease token opens nothing any more."""
    Attempt.objects.filter(pk=attempt.pk).update(
        state=state,
        finished_at=Now(),
        failure_class=failed.failure_class if failed else "",
        failure_message=failed.message if failed else "",
    )
    DeviceUse.objects.filter(attempt=attempt, released_at=None).update(released_at=Now())


def end_job(
    job: Job, state: JobState, message: str, *, failed: Failed | None = None, actor: User | None = None
) -> None:
    """Any unfinished state → succeeded, failed or cancelled."""
    Job.objects.filter(pk=job.pk).update(
        state=state,
        finished_at=Now(),
        waiting_reason="",
        eta_seconds=None,
        failure_class=failed.failure_class if failed else "",
        failure_message=failed.message if failed else "",
        failure_remedy=failed.remedy if failed else "",
    )
    if job.kind == JobKind.IMPORT and state != JobState.SUCCEEDED:
        BaseModel.objects.filter(pk=job.base_model_id).update(state=BaseModelState.FAILED)
    level = "error" if state == JobState.FAILED else "info"
    add_events(job, [EventDraft(message, level)], actor=actor)
    tell_of(job, str(state), message, is_problem=state == JobState.FAILED)


def settle_failure(job: Job, attempt: Attempt, state: AttemptState, failed: Failed) -> None:
    """End the attempt, and decide about its job: cancel as wished, try again what a retry can mend, or fail."""
    end_attempt(attempt, state, failed)
    if job.desired_state == DesiredState.CANCEL:
        end_job(job, JobState.CANCELLED, "Cancelled.")
        return
    fruitless = 1 if made_progress(attempt) else job.fruitless_attempts + 1
    if failed.failure_class in RETRYABLE and fruitless < MAX_FRUITLESS_ATTEMPTS:
        delay = settings.RETRY_DELAY * min(2 ** (fruitless - 1), MAX_RETRY_DELAY_FACTOR)
        Job.objects.filter(pk=job.pk).update(fruitless_attempts=fruitless, not_before=Now() + delay)
        add_events(job, [EventDraft(f"Attempt {attempt.number} ended: {failed.message}", "warn")], attempt=attempt)
        newest = job.checkpoints.order_by("-step").first()
        start = f"from the checkpoint of step {newest.step}" if newest else "from the beginning"
        enqueue(job, f"Queued again, to go on {start}.")
        return
    end_job(job, JobState.FAILED, f"Failed: {failed.message} {failed.remedy}", failed=failed)


def made_progress(attempt: Attempt) -> bool:
    return attempt.checkpoints.exists()
