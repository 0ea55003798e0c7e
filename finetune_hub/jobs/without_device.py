"""Jobs of kinds that need no device, such as one that only has child jobs: the control process runs them."""

from __future__ import annotations

from django.db import transaction

from finetune_hub.jobs.kinds.kind import KINDS
from finetune_hub.jobs.lifecycle import end_job, fail_job, lock_job, start_without_device
from finetune_hub.jobs.models import Job, JobState

PASS_LIMIT = 200


def advance_pass() -> None:
    """Start the next jobs, and end those that their kind reports as ended. Safe at any time."""
    kinds = [name for name, kind in KINDS.items() if not kind.needs_device]
    if not kinds:
        return
    queued = Job.objects.in_queue_order().filter(kind__in=kinds)
    running = Job.objects.filter(kind__in=kinds, state=JobState.RUNNING).order_by("requested_at", "id")
    for job_id in [
        *queued.values_list("pk", flat=True)[:PASS_LIMIT],
        *running.values_list("pk", flat=True)[:PASS_LIMIT],
    ]:
        _advance(job_id)


@transaction.atomic
def _advance(job_id: str) -> None:
    job = lock_job(job_id)
    if job.state == JobState.QUEUED:
        start_without_device(job)
    elif job.state != JobState.RUNNING:  # Ended or paused since we looked.
        return
    ending = job.of_kind.advance(job)
    if ending is None:
        return
    Job.objects.filter(pk=job.pk).update(result=ending.result)
    if ending.failed:
        fail_job(job, ending.failed)
    else:
        end_job(job, JobState.SUCCEEDED, "Done.")
