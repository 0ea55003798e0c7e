"""One scheduler at a time: read the queue and the free devices, call the pure `placement.plan`, and write attempts."""

from __future__ import annotations

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from finetune_hub.fleet.models import Device, Worker
from finetune_hub.jobs.lifecycle import lock_job
from finetune_hub.jobs.live import announce, poke_worker
from finetune_hub.jobs.models import Attempt, DeviceUse, Job, JobState
from finetune_hub.scheduling.placement import Assignment, Fleet, FreeDevice, WaitingJob, plan

SCHEDULER_LOCK = 0x46485343  # Any fixed number: the key of the advisory lock.
LOOKED_AT_JOBS = 1000


@transaction.atomic
def schedule_pass() -> int:
    """Assign waiting jobs to free devices; the number of attempts made.

    It waits for a pass that is under way instead of giving up: that one may have read the queue before our job came.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [SCHEDULER_LOCK])
    active = Attempt.objects.active().filter(job=OuterRef("pk"))
    queue = {job.pk: job for job in Job.objects.in_queue_order().exclude(Exists(active))[:LOOKED_AT_JOBS]}
    if not queue:
        return 0
    # Locked, so that a worker whose drain has returned gets nothing from a pass that began before it.
    workers = {worker.pk: worker for worker in Worker.objects.fit_for_work().select_for_update(no_key=True)}
    held = DeviceUse.objects.filter(device=OuterRef("pk"), released_at=None)
    devices = Device.objects.filter(present=True)
    usable = devices.lendable().filter(worker__in=workers)
    planned = plan(
        [WaitingJob(job.pk, frozenset(job.excluded_devices)) for job in queue.values()],
        [FreeDevice(d.pk, d.worker_id, d.memory_bytes) for d in usable.exclude(Exists(held))],
        Fleet(
            devices=devices.count(),
            usable_devices=usable.count(),
            draining_devices=devices.filter(worker__drain_requested=True).count(),
        ),
    )
    for assignment in planned.assignments:
        if _assign(assignment):
            poke_worker(workers[assignment.worker_id])
    for job_id, reason in planned.waiting_reasons.items():
        if queue[job_id].waiting_reason != reason:
            Job.objects.filter(pk=job_id).update(waiting_reason=reason)
            announce(job_id)
    return len(planned.assignments)


def _assign(assignment: Assignment) -> bool:
    """Write the attempt. False: the job was cancelled or paused since the queue was read."""
    job = lock_job(assignment.job_id)
    if job.state != JobState.QUEUED:
        return False
    attempt = Attempt.objects.create(
        job=job,
        number=job.attempts.count() + 1,
        worker_id=assignment.worker_id,
        lease_expires_at=Now() + settings.CLAIM_WITHIN,
    )
    DeviceUse.objects.bulk_create(DeviceUse(attempt=attempt, device_id=pk) for pk in assignment.device_ids)
    return True
