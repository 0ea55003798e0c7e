"""News of a job for those outside: mails and the team's chat room, by way of the outbox."""

from __future__ import annotations

from django.conf import settings
from django.urls import reverse

from finetune_hub.jobs.live import poke_control
from finetune_hub.jobs.models import Job
from finetune_hub.notifications.actions import notify


def tell_of(job: Job, word: str, message: str, *, is_problem: bool, key: str = "") -> None:
    """Tell who wants to hear it that the job is `word`; in the transaction that makes it so.

    Args:
        key: what is told once; left out, it is the job's newest event.
    """

    def text() -> tuple[str, str]:
        link = f"{settings.PUBLIC_URL.rstrip('/')}{reverse('job', args=[job.pk])}"
        return f"{job.subject}: {word}", f"{message}\n{link}"

    # `add_events` has left the number before its own in the row at hand.
    key = key or str(job.event_count + 1)
    if notify(f"{job.pk}:{key}", team=job.team, user=job.created_by, is_problem=is_problem, text=text):
        poke_control("deliver")
