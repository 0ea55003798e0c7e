"""What a failure changes for the job's next attempt: less memory, another device, or nothing.

Like in `lifecycle`, all functions run inside a transaction of the caller, who holds the job's row lock.
"""

from __future__ import annotations

from finetune_hub.jobs.models import Attempt, Job
from finetune_hub.scheduling.shrinking import in_words
from finetune_hub.spec.problem import FailureClass

RETRYABLE: frozenset[FailureClass] = frozenset({"worker_lost", "infrastructure"})


def adapt(job: Job, attempt: Attempt, failure_class: FailureClass) -> str | None:
    """Change what the next attempt needs. Returns a description of the change; None: another attempt would not help."""
    if failure_class == "out_of_memory":
        return shrink(job)
    if failure_class == "infrastructure":
        return avoid_devices(job, attempt)
    return "" if failure_class in RETRYABLE else None


def shrink(job: Job) -> str | None:
    """Make the next attempt use less memory, if the job allows it."""
    changes = job.of_kind.shrink(job)
    if changes is None:
        return None
    job.adjustments |= changes
    Job.objects.filter(pk=job.pk).update(adjustments=job.adjustments)
    return f"The next attempt needs less memory: {in_words(changes)}."


def avoid_devices(job: Job, attempt: Attempt) -> str:
    """Keep the job off the devices that have just failed it, as long as the scheduler has another one.

    The scheduler checks that, because a worker's own database role may only see its own devices.
    """
    failed = list(attempt.devices.order_by("pk"))
    if not failed:  # An import next to a worker's GPUs.
        return ""
    excluded = sorted({*job.excluded_devices, *(device.pk for device in failed)})
    Job.objects.filter(pk=job.pk).update(excluded_devices=excluded)
    names = ", ".join(f"{device.name} of {attempt.worker.name}" for device in failed)
    return f"It will not run on {names} again while another suitable device exists."
