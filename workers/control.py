"""Control's tasks: each takes ids, calls one action, and holds no rule."""

from __future__ import annotations

from celery import shared_task

from finetune_hub.fleet.models import Worker
from finetune_hub.jobs.live import send_canary
from finetune_hub.jobs.reconciler import reconcile_pass
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.validation import validate_job


@shared_task(name="workers.control.validate")
def validate(job_id: str) -> None:
    validate_job(job_id)
    schedule_pass()


@shared_task(name="workers.control.schedule")
def schedule() -> None:
    schedule_pass()


@shared_task(name="workers.control.reconcile")
def reconcile() -> None:
    reconcile_pass()


@shared_task(name="workers.control.send_canaries")
def send_canaries() -> None:
    for worker in Worker.objects.all():
        send_canary(worker)
