"""Repair what was lost: expired leases and pokes that never arrived. Safe at any time, also concurrently."""

from __future__ import annotations

from datetime import timedelta

from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.fleet.pokes import poke_control, poke_worker
from finetune_hub.fleet.worker_role import end_long_transactions
from finetune_hub.jobs.lifecycle import end_attempt, enqueue, fail_followers, lock_job, settle_failure, time_out
from finetune_hub.jobs.models import Attempt, AttemptState, Job, JobState, StopWish
from finetune_hub.jobs.news import tell_of_ended_jobs
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.without_device import advance_pass
from finetune_hub.spec.problem import Failed

PASS_LIMIT = 200
REPOKE_AFTER = timedelta(seconds=5)
# A trainer ends by itself at its maximum duration; it gets this much longer to evaluate and publish its adapter.
OVERTIME = timedelta(minutes=10)


def reconcile_pass() -> None:
    """Make one bounded pass over everything that may be stuck."""
    end_long_transactions()  # First: the rest may wait for a lock that a worker does not release.
    expire_attempts()
    time_out_attempts()
    fail_what_never_starts()
    tell_of_ended_jobs()
    for job in Job.objects.filter(state=JobState.VALIDATING, not_before__lt=Now() - REPOKE_AFTER)[:PASS_LIMIT]:
        poke_control("validate", job.pk)
    advance_pass()
    schedule_pass()
    unclaimed = Attempt.objects.filter(state=AttemptState.ASSIGNED, assigned_at__lt=Now() - REPOKE_AFTER)
    for attempt in unclaimed.select_related("worker")[:PASS_LIMIT]:
        poke_worker(attempt.worker)


def expire_attempts() -> int:
    """End attempts with an expired lease and queue their jobs again. Returns the number of attempts."""
    expired = list(Attempt.objects.expired().values_list("pk", "job_id")[:PASS_LIMIT])
    return sum(_expire(attempt_id, job_id) for attempt_id, job_id in expired)


def fail_what_never_starts() -> None:
    """Fail the jobs that wait for a job that failed or was cancelled."""
    gone = Job.objects.filter(state__in=[JobState.FAILED, JobState.CANCELLED])
    found = gone.filter(followers__isnull=False, followers__finished_at=None).distinct()
    for job_id in list(found.values_list("pk", flat=True)[:PASS_LIMIT]):
        with transaction.atomic():
            job = lock_job(job_id)
            if job.has_ended:  # Otherwise somebody has just retried it.
                fail_followers(job, JobState(job.state))


@transaction.atomic
def _expire(attempt_id: int, job_id: str) -> bool:
    job = lock_job(job_id)
    attempt = Attempt.objects.expired().select_related("worker").filter(pk=attempt_id).first()
    if attempt is None:  # Renewed, ended or claimed since we looked.
        return False
    if attempt.state == AttemptState.ASSIGNED:
        end_attempt(attempt, AttemptState.LOST)
        enqueue(job, f"{attempt.worker.name} did not claim it in time.")
        return True
    failed = Failed(
        "worker_lost",
        f"The worker {attempt.worker.name} did not respond before its lease ended.",
        "Several attempts failed. Check the Workers page, then retry the job.",
    )
    settle_failure(job, attempt, AttemptState.LOST, failed)
    return True


def time_out_attempts() -> None:
    """Stop trainers that exceeded their maximum duration without ending by themselves."""
    running = Attempt.objects.filter(state=AttemptState.RUNNING).exclude(stop_wish=StopWish.TIME_OUT)
    limited = running.filter(job__spec__runtime__has_key="max_duration")
    for attempt in limited.select_related("job")[:PASS_LIMIT]:
        limit = attempt.job.of_kind.max_duration_seconds(attempt.job)
        if limit is not None and attempt.job.run_time() > timedelta(seconds=limit) + OVERTIME:
            duration = attempt.job.spec["runtime"]["max_duration"]
            time_out(attempt, f"It exceeded its maximum duration of {duration} and did not end by itself.")
