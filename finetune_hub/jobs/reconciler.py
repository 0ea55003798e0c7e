"""Mend what was lost: leases that ended, pokes that never came. Safe at any time, any number of times at once."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.fleet.worker_role import end_long_transactions
from finetune_hub.jobs.lifecycle import Failed, end_attempt, enqueue, lock_job, settle_failure
from finetune_hub.jobs.live import poke_control, poke_worker
from finetune_hub.jobs.models import Attempt, AttemptState, Job, JobState
from finetune_hub.jobs.scheduler import schedule_pass

PASS_LIMIT = 200
REPOKE_AFTER = timedelta(seconds=5)


def reconcile_pass() -> None:
    """One bounded pass over everything that may be stuck."""
    end_long_transactions()  # First: what follows may wait for a lock that a worker does not let go.
    expire_attempts()
    for job in Job.objects.filter(state=JobState.VALIDATING, created_at__lt=Now() - REPOKE_AFTER)[:PASS_LIMIT]:
        poke_control("validate", job.pk)
    schedule_pass()
    unclaimed = Attempt.objects.filter(state=AttemptState.ASSIGNED, assigned_at__lt=Now() - REPOKE_AFTER)
    for attempt in unclaimed.select_related("worker")[:PASS_LIMIT]:
        poke_worker(attempt.worker)


def expire_attempts() -> int:
    """End the attempts whose lease has ended, and queue their jobs again; the number of attempts."""
    expired = list(Attempt.objects.expired().values_list("pk", "job_id")[:PASS_LIMIT])
    return sum(_expire(attempt_id, job_id) for attempt_id, job_id in expired)


@transaction.atomic
def _expire(attempt_id: int, job_id: str) -> bool:
    job = lock_job(job_id)
    attempt = Attempt.objects.expired().select_related("worker").filter(pk=attempt_id).first()
    if attempt is None:  # Renewed, ended or claimed since we looked.
        return False
    if attempt.state == AttemptState.ASSIGNED:
        end_attempt(attempt, AttemptState.LOST)
        enqueue(job, f"Queued again: {attempt.worker.name} did not claim it in time.")
        return True
    failed = Failed(
        "worker_lost",
        f"The worker {attempt.worker.name} was not heard from until its lease ended.",
        "Look at the Workers page, then submit the job again: it was tried several times.",
    )
    settle_failure(job, attempt, AttemptState.LOST, failed)
    return True
