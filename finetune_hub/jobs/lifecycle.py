"""How jobs and attempts change state. No other code writes `.state`.

Every function here runs inside a transaction of its caller, who holds the job's row lock (`lock_job`). To avoid
deadlocks, locks are always taken in the order job, attempt, device, and a job before those that start after it; the
scheduler, which locks many jobs, takes them in the order of their keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.accounts.models import User
from finetune_hub.fleet.models import Worker
from finetune_hub.fleet.pokes import poke_control, poke_worker
from finetune_hub.jobs.fan_out import announce
from finetune_hub.jobs.models import (
    Attempt,
    AttemptState,
    DesiredState,
    DeviceUse,
    Job,
    JobEvent,
    JobState,
    StopWish,
)
from finetune_hub.jobs.news import tell_of
from finetune_hub.jobs.second_tries import adapt
from finetune_hub.machine.paths_in_text import without_paths
from finetune_hub.spec.problem import Failed
from finetune_hub.spec.refusal import Refusal

RAISE_THE_LIMIT = "Raise `runtime.max_duration` in a clone, or check the log for what delayed the trainer."
MAX_FRUITLESS_ATTEMPTS = 5
MAX_RETRY_DELAY_FACTOR = 32


@dataclass(frozen=True)
class EventDraft:
    message: str
    level: str = "info"


def lock_job(job_id: str) -> Job:
    """Return the job, locked against other transitions until the transaction ends."""
    return Job.objects.select_for_update(no_key=True).get(pk=job_id)


def add_events(
    job: Job, drafts: Iterable[EventDraft], *, attempt: Attempt | None = None, actor: User | None = None
) -> int:
    """Number the events and add them; watchers are notified after the commit. Returns the last one's number."""
    drafts = list(drafts)
    job.refresh_from_db(fields=["event_count"])
    JobEvent.objects.bulk_create(
        JobEvent(
            job=job,
            number=number,
            attempt=attempt,
            actor=actor,
            level=draft.level,
            message=without_paths(draft.message),
        )
        for number, draft in enumerate(drafts, start=job.event_count + 1)
    )
    job.event_count += len(drafts)
    Job.objects.filter(pk=job.pk).update(event_count=job.event_count)
    announce(job.pk)
    return job.event_count


def enqueue(job: Job, why: str = "", *, actor: User | None = None) -> None:
    """Move a validating, running or paused job to queued, or to paused if that was requested."""
    state = JobState.PAUSED if job.desired_state == DesiredState.PAUSE else JobState.QUEUED
    reason = "" if state == JobState.PAUSED else job.awaited
    Job.objects.filter(pk=job.pk).update(state=state, waiting_reason=reason, eta_seconds=None)
    add_events(job, [EventDraft(f"{state.label}. {why}".rstrip())], actor=actor)


def look_at_again(job: Job, why: str) -> None:
    """Move a running job to validating: control plans it again, which a worker's own role may not."""
    Job.objects.filter(pk=job.pk).update(state=JobState.VALIDATING, eta_seconds=None)
    add_events(job, [EventDraft(why)])
    poke_control("validate", job.pk)


def start_attempt(job: Job, attempt_id: int, *, worker: Worker, token: UUID) -> bool:
    """Move an assigned attempt and its job to running, under a lease with this token.

    Returns:
        False: another process was first, or the claim deadline is over.
    """
    num_updated = Attempt.objects.filter(
        pk=attempt_id, worker=worker, state=AttemptState.ASSIGNED, lease_expires_at__gt=Now()
    ).update(state=AttemptState.RUNNING, lease_token=token, lease_expires_at=Now() + settings.LEASE, started_at=Now())
    if num_updated != 1:
        return False
    attempt = Attempt.objects.select_related("worker").get(pk=attempt_id)
    Job.objects.filter(pk=job.pk).update(state=JobState.RUNNING, waiting_reason="")
    Job.objects.filter(pk=job.pk, started_at=None).update(started_at=Now())
    add_events(job, [EventDraft(f"Attempt {attempt.number} started on {attempt.worker.name}.")], attempt=attempt)
    return True


def start_without_device(job: Job) -> None:
    """Move a queued job of a kind that needs no device to running."""
    Job.objects.filter(pk=job.pk).update(state=JobState.RUNNING, waiting_reason="", waiting_code="")
    Job.objects.filter(pk=job.pk, started_at=None).update(started_at=Now())
    add_events(job, [EventDraft("Started.")])


def end_attempt(attempt: Attempt, state: AttemptState, failed: Failed | None = None) -> None:
    """End an active attempt; its devices are free at once, and its lease token is no longer valid."""
    Attempt.objects.filter(pk=attempt.pk).update(
        state=state,
        finished_at=Now(),
        **Attempt.failure_columns(failed),
    )
    DeviceUse.objects.filter(attempt=attempt, released_at=None).update(released_at=Now())
    Job.objects.filter(pk=attempt.job_id).exclude(address="").update(address="")


def end_job(
    job: Job, state: JobState, message: str, *, failed: Failed | None = None, actor: User | None = None
) -> None:
    """Move an unfinished job to succeeded, failed or cancelled."""
    Job.objects.filter(pk=job.pk).update(
        state=state,
        finished_at=Now(),
        waiting_reason="",
        eta_seconds=None,
        **Job.failure_columns(failed),
    )
    job.of_kind.after_end(job, succeeded=state == JobState.SUCCEEDED)
    level = "error" if state == JobState.FAILED else "info"
    number = add_events(job, [EventDraft(message, level)], actor=actor)
    tell_of(job, str(state), message, is_problem=state == JobState.FAILED, key=str(number))
    if job.parent_id:
        poke_control("schedule")
    if state == JobState.SUCCEEDED:
        job.followers.filter(state=JobState.QUEUED).update(waiting_reason="")
    else:
        fail_followers(job, state)


def reopen_job(job: Job, message: str, *, actor: User) -> None:
    """Move a failed or cancelled job to validating, as if just submitted; attempts and checkpoints stay."""
    Job.objects.filter(pk=job.pk).update(
        state=JobState.VALIDATING,
        desired_state=DesiredState.RUN,
        requested_at=Now(),
        not_before=Now(),
        finished_at=None,
        fruitless_attempts=0,
        excluded_devices=[],
        **Job.failure_columns(None),
        result=None,
    )
    add_events(job, [EventDraft(message)], actor=actor)


def fail_followers(job: Job, state: JobState) -> None:
    """Fail the jobs that wait for this one. A worker's own role cannot see them, so the reconciler repeats it."""
    for follower_id in job.followers.filter(finished_at=None).order_by("pk").values_list("pk", flat=True):
        follower = lock_job(follower_id)
        if not follower.has_ended:
            what = "failed" if state == JobState.FAILED else "was cancelled"
            message = f"It was to start after {job.subject} ({job.pk}), which {what}."
            fail_job(follower, Failed("dependency", message, "Retry that job, then this one."))


def fail_job(job: Job, failed: Failed) -> None:
    """Move an unfinished job to failed."""
    end_job(job, JobState.FAILED, f"Failed: {failed}", failed=failed)


# ---- attempts that fail


def settle_failure(job: Job, attempt: Attempt, state: AttemptState, failed: Failed) -> None:
    """End the attempt, then cancel its job if requested, retry it if possible, or fail it."""
    end_attempt(attempt, state, failed)
    if job.desired_state == DesiredState.CANCEL:
        end_job(job, JobState.CANCELLED, "Cancelled.")
        return
    fruitless = 1 if made_progress(attempt) else job.fruitless_attempts + 1
    change = None if fruitless >= MAX_FRUITLESS_ATTEMPTS else adapt(job, attempt, failed.code)
    if change is None:
        fail_job(job, failed)
        return
    delay = settings.RETRY_DELAY * min(2 ** (fruitless - 1), MAX_RETRY_DELAY_FACTOR)
    Job.objects.filter(pk=job.pk).update(fruitless_attempts=fruitless, not_before=Now() + delay)
    add_events(job, [EventDraft(f"Attempt {attempt.number} ended: {failed.message}", "warn")], attempt=attempt)
    next_try = f"{change} It will restart {job.next_start()}.".lstrip()
    if failed.code == "out_of_memory":
        look_at_again(job, next_try)
    else:
        enqueue(job, next_try)


def made_progress(attempt: Attempt) -> bool:
    return attempt.checkpoints.exists()


# ---- attempts that are asked to stop


@transaction.atomic
def preempt(attempt: Attempt, reason: str, *, actor: User | None = None) -> bool:
    """Take an attempt's devices back: its trainer writes a checkpoint and stops, and its job is queued again.

    This function takes the locks itself.

    Args:
        reason: a sentence for the job's owner, such as "A job of higher priority needs its GPU."
        actor: None: the scheduler.

    Returns:
        False: the attempt has ended, or is stopping already.
    """
    job, active = lock_job(attempt.job_id), _active_attempt(attempt)
    if active is None or active.stop_wish or job.desired_state != DesiredState.RUN:
        return False
    if active.state == AttemptState.ASSIGNED:
        end_attempt(active, AttemptState.PREEMPTED)
        enqueue(job, f"Preempted: {reason}", actor=actor)
    else:
        message = f"Preempted: {reason} Its trainer writes a checkpoint first."
        _ask_to_stop(job, active, StopWish.PREEMPT, reason, message, actor=actor)
    return True


@transaction.atomic
def time_out(attempt: Attempt, reason: str) -> None:
    """Stop an attempt that has exceeded its job's maximum duration. This function takes the locks itself."""
    job, active = lock_job(attempt.job_id), _active_attempt(attempt)
    if active is not None and active.stop_wish != StopWish.TIME_OUT:
        _ask_to_stop(job, active, StopWish.TIME_OUT, reason, f"{reason} Its trainer was asked to stop.")


def _active_attempt(attempt: Attempt) -> Attempt | None:
    """Return the attempt's current row, locked; None: it has ended."""
    active = Attempt.objects.active().select_for_update(no_key=True, of=("self",)).select_related("worker")
    return active.filter(pk=attempt.pk).first()


def _ask_to_stop(
    job: Job, attempt: Attempt, wish: StopWish, reason: str, message: str, *, actor: User | None = None
) -> None:
    Attempt.objects.filter(pk=attempt.pk).update(stop_wish=wish, stop_reason=reason)
    add_events(job, [EventDraft(message, "warn")], attempt=attempt, actor=actor)
    poke_worker(attempt.worker)


def settle_stop(job: Job, attempt: Attempt, *, was_asked: bool, failed: Failed | None = None) -> None:
    """End an attempt whose trainer has stopped, and do what was requested for its job.

    Args:
        was_asked: whether the service stopped it; otherwise somebody on the worker's machine did.
        failed: what went wrong while it stopped; only recorded in the history.
    """
    if failed:
        add_events(job, [EventDraft(f"While it stopped: {failed}", "warn")], attempt=attempt)
    if job.desired_state == DesiredState.CANCEL and job.of_kind.runs_until_told:
        end_attempt(attempt, AttemptState.SUCCEEDED)
        end_job(job, JobState.SUCCEEDED, "Ended on request.")
    elif job.desired_state == DesiredState.CANCEL:
        end_attempt(attempt, AttemptState.CANCELLED)
        end_job(job, JobState.CANCELLED, "Cancelled.")
    elif attempt.stop_wish == StopWish.TIME_OUT:
        too_long = Failed("timed_out", attempt.stop_reason, RAISE_THE_LIMIT)
        settle_failure(job, attempt, AttemptState.FAILED, too_long)
    elif was_asked or job.desired_state == DesiredState.PAUSE:
        is_preempted = attempt.stop_wish == StopWish.PREEMPT
        end_attempt(attempt, AttemptState.PREEMPTED if is_preempted else AttemptState.PAUSED)
        enqueue(job, f"It will restart {job.next_start()}.")
    else:
        ended = Failed("worker_lost", "The trainer was stopped from outside.", "Retry the job.")
        settle_failure(job, attempt, AttemptState.FAILED, ended)


def wrong_state(job: Job, because: str, remedy: str = "Check the job's state before you try again.") -> Refusal:
    return Refusal("wrong_job_state", f"{job.pk} is {job.shown_state}: {because}.", remedy, kind="conflict")
