"""The check before the queue, by the job's kind: unsuitable rows fail the job here, before it holds any device."""

from __future__ import annotations

from django.db import transaction

from finetune_hub.jobs.lifecycle import enqueue, fail_job, lock_job
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.spec.problem import Explained


def validate_job(job_id: str) -> None:
    """Move a validating job to queued, or to failed if its rows do not fit the base model. Idempotent."""
    job = Job.objects.select_related("base_model", "team").get(pk=job_id)
    if job.state != JobState.VALIDATING:
        return
    failed, message = None, ""
    try:
        message = job.readable_kind.check(job)
    except Explained as error:
        failed = error.failed
    seconds = None if failed else job.of_kind.expected_seconds(job)
    needed = job.memory_bytes_needed if failed else job.of_kind.memory_bytes_needed(job)
    with transaction.atomic():
        job = lock_job(job_id)
        if job.state != JobState.VALIDATING:
            return
        if failed:
            fail_job(job, failed)
        else:
            Job.objects.filter(pk=job.pk).update(expected_seconds=seconds, memory_bytes_needed=needed)
            enqueue(job, message)
