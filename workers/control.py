"""Control's tasks: each takes ids and calls one action, without logic of its own."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings

from finetune_hub.fleet.connection_limits import share_connections
from finetune_hub.fleet.models import Worker
from finetune_hub.fleet.pokes import send_canary
from finetune_hub.fleet.refused_requests import log_refused_requests
from finetune_hub.jobs.reconciler import reconcile_pass
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.validation import validate_job
from finetune_hub.jobs.without_device import advance_pass
from finetune_hub.logs import about
from finetune_hub.notifications.delivery import deliver_pass
from finetune_hub.operations.health import probe_artifacts, tell_of_waiting_jobs
from finetune_hub.operations.models import RoundName, record_round
from finetune_hub.operations.retention import tidy_pass


@shared_task(name="workers.control.validate")
def validate(job_id: str) -> None:
    with about(job_id=job_id):
        validate_job(job_id)
    advance_pass()
    schedule_pass()


@shared_task(name="workers.control.schedule")
def schedule() -> None:
    advance_pass()
    schedule_pass()


@shared_task(name="workers.control.reconcile")
def reconcile() -> None:
    reconcile_pass()
    record_round(RoundName.RECONCILE)


@shared_task(name="workers.control.send_canaries")
def send_canaries() -> None:
    for worker in Worker.objects.in_fleet():
        send_canary(worker)


@shared_task(name="workers.control.probe")
def probe() -> None:
    share_connections()
    log_refused_requests(within=settings.PROBE_EVERY)
    record_round(RoundName.PROBE, probe_artifacts())
    tell_of_waiting_jobs()


@shared_task(name="workers.control.deliver")
def deliver() -> None:
    record_round(RoundName.DELIVER, deliver_pass())


@shared_task(name="workers.control.tidy")
def tidy() -> None:
    record_round(RoundName.TIDY, tidy_pass())
