"""Delivery of the outbox: each message at least once, with exponential backoff.

A message is claimed by postponing its next attempt, and marked once it is sent. If the process dies in between, the
next attempt sends it: a message may arrive twice, but is never lost.
"""

from __future__ import annotations

import logging
from smtplib import SMTPException

from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.accounts.sealing import Unreadable, unseal
from finetune_hub.notifications.models import MAX_TRIES, Channel, ChatWebhook, Notification
from finetune_hub.notifications.webhook import NotDelivered, post_text

log = logging.getLogger(__name__)

PASS_LIMIT = 50


def deliver_pass() -> str:
    """Send a bounded number of due messages. Returns the last failure's problem, or an empty string."""
    problem = ""
    for message in claim_due():
        try:
            send(message)
        except (NotDelivered, Unreadable, SMTPException, OSError) as error:
            problem = note_failure(message, str(error))
        else:
            Notification.objects.filter(pk=message.pk).update(sent_at=Now(), problem="")
    return problem


@transaction.atomic
def claim_due() -> list[Notification]:
    """Claim due messages, so that no other pass sends them before this attempt is over."""
    due = list(
        Notification.objects.due().select_related("user").select_for_update(skip_locked=True, of=("self",))[:PASS_LIMIT]
    )
    for message in due:
        pause = message.pause_after()
        message.tries += 1
        Notification.objects.filter(pk=message.pk).update(tries=message.tries, not_before=Now() + pause)
    return due


def send(message: Notification) -> None:
    """Send a message.

    Raises:
        NotDelivered, Unreadable, SMTPException, OSError: it was not sent.
    """
    if message.channel == Channel.EMAIL:
        assert message.user is not None  # A database constraint.
        EmailMessage(subject=message.subject, body=message.body, to=[message.user.email]).send()
        return
    webhook = ChatWebhook.objects.filter(team=message.team_id).first()
    if webhook is None:
        raise NotDelivered("The chat room is no longer connected.")
    post_text(unseal(webhook.sealed_url), f"{message.subject}\n{message.body}")


def note_failure(message: Notification, problem: str) -> str:
    """Store why it failed; give up after too many attempts."""
    log.warning("notification %s, attempt %s: %s", message.pk, message.tries, problem)
    given_up = Now() if message.tries >= MAX_TRIES else None
    Notification.objects.filter(pk=message.pk).update(problem=problem, given_up_at=given_up)
    return f"The last failed message: {problem}"
