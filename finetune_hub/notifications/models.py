"""Subscriptions to news about jobs, and an outbox, written in the transaction of the event itself."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now

from finetune_hub.accounts.models import Team, User

MAX_TRIES = 12  # Half a day, with the pauses between them.
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)


class Wants(models.TextChoices):
    """Which messages a recipient wants."""

    NOTHING = "nothing", "never"
    PROBLEMS = "problems", "when a job fails or needs attention"
    EVERYTHING = "everything", "when a job ends or needs attention"


class EmailWish(models.Model):
    """Which emails a user wants about their own jobs. No row: none."""

    user = models.OneToOneField(User, models.CASCADE, primary_key=True, related_name="email_wish")
    wants = models.CharField(max_length=10, choices=Wants, default=Wants.NOTHING)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(wants__in=Wants.values), name="email_wish_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.wants}"


class ChatWebhook(models.Model):
    """The webhook of a team's chat room. Its URL gives access to the room, so it is never shown again."""

    team = models.OneToOneField(Team, models.CASCADE, primary_key=True, related_name="chat_webhook")
    sealed_url = models.TextField()
    host = models.CharField(max_length=255, help_text="The only part of the URL that is shown.")
    wants = models.CharField(max_length=10, choices=Wants, default=Wants.EVERYTHING)
    set_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    set_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(wants__in=Wants.values), name="chat_webhook_wish_known"),
        ]

    def __str__(self) -> str:
        return f"{self.team}: {self.host}"


class Channel(models.TextChoices):
    EMAIL = "email"
    CHAT = "chat"


class NotificationQuerySet(models.QuerySet["Notification"]):
    def waiting(self) -> NotificationQuerySet:
        return self.filter(sent_at=None, given_up_at=None)

    def due(self) -> NotificationQuerySet:
        """Return the messages to send now, oldest first."""
        return self.waiting().filter(not_before__lte=Now()).order_by("pk")


class Notification(models.Model):
    """A message to one recipient. It waits until it is sent or given up; `key` makes it unique."""

    key = models.CharField(max_length=200, unique=True)
    channel = models.CharField(max_length=10, choices=Channel)
    team = models.ForeignKey(Team, models.CASCADE, related_name="+")
    user = models.ForeignKey(User, models.CASCADE, null=True, related_name="+", help_text="The recipient of an email.")
    subject = models.CharField(max_length=300)
    body = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    not_before = models.DateTimeField(db_default=Now())
    tries = models.PositiveSmallIntegerField(default=0)
    sent_at = models.DateTimeField(null=True)
    given_up_at = models.DateTimeField(null=True)
    problem = models.TextField(blank=True, help_text="Why the last attempt failed; contains no secrets.")

    objects = NotificationQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(
                fields=["not_before", "id"],
                condition=models.Q(sent_at=None, given_up_at=None),
                name="notification_waiting",
            ),
            models.Index(fields=["team", "-id"], name="notification_newest_of_team"),
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(channel__in=Channel.values), name="notification_channel_known"),
            models.CheckConstraint(
                condition=~models.Q(channel=Channel.EMAIL) | models.Q(user__isnull=False),
                name="notification_email_has_user",
            ),
        ]

    def __str__(self) -> str:
        return self.subject

    def pause_after(self) -> timedelta:
        """Return how long to wait if this attempt fails: exponential backoff, up to an hour."""
        pause: timedelta = FIRST_PAUSE * 2 ** min(self.tries, 10)
        return min(pause, LONGEST_PAUSE)
