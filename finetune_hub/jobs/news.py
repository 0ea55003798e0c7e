"""Notifications about a job, by email and in the team's chat room, sent through the outbox."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now
from django.urls import reverse

from finetune_hub.fleet.pokes import poke_control
from finetune_hub.fleet.worker_role import acts_as_worker, invited_workers
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.machine.paths_in_text import without_paths
from finetune_hub.notifications.actions import notify

TOLD_WITHIN = timedelta(minutes=10)


def tell_of(job: Job, word: str, message: str, *, is_problem: bool, key: str) -> None:
    """Notify subscribers that the job is `word`, in the transaction that makes it so.

    Args:
        key: identifies what is sent only once, such as the number of the event.
    """
    if acts_as_worker():  # A worker's role cannot read users; `tell_of_ended_jobs` does it later.
        return

    def text() -> tuple[str, str]:
        link = f"{settings.PUBLIC_URL.rstrip('/')}{reverse('job', args=[job.pk])}"
        return f"{job.subject}: {word}", f"{without_paths(message)}\n{link}"

    if notify(f"{job.pk}:{key}", team=job.team, user=job.created_by, is_problem=is_problem, text=text):
        poke_control("deliver")


def tell_of_ended_jobs() -> None:
    """Notify about jobs that invited workers ended recently. The key in the outbox prevents sending one twice."""
    ended = Job.objects.ended().filter(
        finished_at__gt=Now() - TOLD_WITHIN, attempts__worker__name__in=invited_workers()
    )
    for job in ended.distinct():
        with transaction.atomic():
            message = job.events.order_by("-number").values_list("message", flat=True)[0]
            is_problem = job.state == JobState.FAILED
            tell_of(job, job.state, message, is_problem=is_problem, key=str(job.event_count))
