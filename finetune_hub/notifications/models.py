"""Who wants to hear of jobs, and what waits to be told: an outbox, written in the transaction that it tells of."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now

from finetune_hub.accounts.models import Team, User

MAX_TRIES = 12  # With the pauses between them, half a day.
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)


class Wants(models.TextChoices):
    """How much somebody wants to hear."""

    NOTHING = "nothing", "nothing"
    PROBLEMS = "problems", "when a job fails or needs somebody"
    EVERYTHING = "everything", "when a job ends or needs somebody"


class EmailWish(models.Model):
    """What a user wants to hear by e-mail of their own jobs. No row: nothing."""

    user = models.OneToOneField(User, models.CASCADE, primary_key=True, related_name="email_wish")
    wants = models.CharField(max_length=10, choices=Wants, default=Wants.NOTHING)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(wants__in=Wants.values), name="email_wish_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.wants}"


class ChatWebhook(models.Model):
    """Where a team's chat room hears of its jobs. The address is a key to the room, and never shown again."""

    team = models.OneToOneField(Team, models.CASCADE, primary_key=True, related_name="chat_webhook")
    sealed_url = models.TextField()
    host = models.CharField(max_length=255, help_text="All that is shown of the address.")
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
        """Those to be sent now, oldest first."""
        return self.waiting().filter(not_before__lte=Now()).order_by("pk")


class Notification(models.Model):
    """A message to one recipient. It stays until it is sent or was tried too often; `key` keeps it single."""

    key = models.CharField(max_length=200, unique=True)
    channel = models.CharField(max_length=10, choices=Channel)
    team = models.ForeignKey(Team, models.CASCADE, related_name="+")
    user = models.ForeignKey(User, models.CASCADE, null=True, related_name="+", help_text="Of an e-mail.")
    subject = models.CharField(max_length=300)
    body = models.TextField()
    created_at = models.DateTimeField(db_default=Now())
    not_before = models.DateTimeField(db_default=Now())
    tries = models.PositiveSmallIntegerField(default=0)
    sent_at = models.DateTimeField(null=True)
    given_up_at = models.DateTimeField(null=True)
    problem = models.TextField(blank=True, help_text="Why the last try failed; it names no secret.")

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
        """How long to wait when this try fails: twice as long each time, up to an hour."""
        pause: timedelta = FIRST_PAUSE * 2 ** min(self.tries, 10)
        return min(pause, LONGEST_PAUSE)
