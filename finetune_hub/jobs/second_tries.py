"""What a failure changes for the job's next attempt: less memory, another device, or nothing but the try.

Like `lifecycle`, whose part this is, it runs inside a transaction of its caller, who holds the job's row lock.
"""

from __future__ import annotations

from finetune_hub.jobs.models import Attempt, Job
from finetune_hub.scheduling.shrinking import in_words
from finetune_hub.spec.problem import FailureClass

RETRYABLE: frozenset[FailureClass] = frozenset({"worker_lost", "infrastructure"})


def adapt(job: Job, attempt: Attempt, failure_class: FailureClass) -> str | None:
    """Change what has to be other for the next attempt. Returns what that is, in words; None: nothing would help."""
    if failure_class == "out_of_memory":
        return shrink(job)
    if failure_class == "infrastructure":
        return avoid_devices(job, attempt)
    return "" if failure_class in RETRYABLE else None


def shrink(job: Job) -> str | None:
    """Let the next attempt do with less memory, where the job allows it."""
    changes = job.of_kind.shrink(job)
    if changes is None:
        return None
    job.adjustments |= changes
    Job.objects.filter(pk=job.pk).update(adjustments=job.adjustments)
    return f"The next attempt needs less memory: {in_words(changes)}."


def avoid_devices(job: Job, attempt: Attempt) -> str:
    """Keep the job away from the devices that have just failed it, as long as the scheduler knows of another.

    That is not for the worker to say, whose own role may see none but its own.
    """
    failed = list(attempt.devices.order_by("pk"))
    if not failed:  # An import beside a worker's GPUs.
        return ""
    excluded = sorted({*job.excluded_devices, *(device.pk for device in failed)})
    Job.objects.filter(pk=job.pk).update(excluded_devices=excluded)
    names = ", ".join(f"{device.name} of {attempt.worker.name}" for device in failed)
    return f"It will not be placed on {names} again while another is there."
