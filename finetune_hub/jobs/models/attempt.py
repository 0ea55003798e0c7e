"""Attempts to run a job under a lease, and the devices that they hold."""

from __future__ import annotations

from datetime import timedelta
from statistics import median

from django.db import models
from django.db.models.functions import Cast, Coalesce, Now

from finetune_hub.fleet.models import Device, Worker
from finetune_hub.jobs.models.failure import MayFail
from finetune_hub.jobs.models.job import MAY_FOLLOW, Job, JobState


class AttemptState(models.TextChoices):
    ASSIGNED = "assigned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    PAUSED = "paused"
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"


ACTIVE_ATTEMPT_STATES = [AttemptState.ASSIGNED, AttemptState.RUNNING]


class StopWish(models.TextChoices):
    """Why the service itself stops an attempt; what people request is the job's `desired_state`."""

    PREEMPT = "preempt"
    TIME_OUT = "time_out"


REMEMBERED_ATTEMPTS = 20
MEASURED_STEPS = (2, 100)  # Without the first, slow step; the peak comes long before step 100.


class AttemptQuerySet(models.QuerySet["Attempt"]):
    def active(self) -> AttemptQuerySet:
        return self.filter(state__in=ACTIVE_ATTEMPT_STATES)

    def for_page(self) -> AttemptQuerySet:
        """Return them newest first, each with its worker and devices, without the log, which is long."""
        return self.select_related("worker").prefetch_related("devices").defer("log_tail").order_by("-number")

    def expired(self) -> AttemptQuerySet:
        """Return active attempts whose lease or claim deadline has expired by the database's clock."""
        return self.active().filter(lease_expires_at__lte=Now())

    def with_measures(self) -> AttemptQuerySet:
        """Return those with a few steps, annotated with measurements: `peak_bytes` and the others of `Attempt`."""
        added: dict[str, models.Aggregate] = {
            "peak_bytes": models.Max("metrics__peak_memory_bytes"),
            "most_tokens": models.Max("metrics__tokens"),
            "mean_tokens": models.Avg("metrics__tokens"),
            "mean_supervised": models.Avg("metrics__supervised_tokens"),
            "mean_seconds": models.Avg("metrics__seconds"),
        }
        rows = self.filter(metrics__step__range=MEASURED_STEPS).annotate(**added)
        return rows.select_related("job__base_model").prefetch_related("devices").defer("log_tail")

    def usual_seconds(self, kind: str) -> float | None:
        """Return the median duration of the newest successful ones; None: there are none."""
        ended = self.filter(job__kind=kind, state=AttemptState.SUCCEEDED, started_at__isnull=False)
        durations = [attempt.duration for attempt in ended.defer("log_tail").order_by("-pk")[:REMEMBERED_ATTEMPTS]]
        seconds = [duration.total_seconds() for duration in durations if duration]
        return median(seconds) if seconds else None

    def to_learn_from(self, newest: int) -> AttemptQuerySet:
        """Return the newest that succeeded without a resume and took steps, with their measurements."""
        ended = self.filter(state=AttemptState.SUCCEEDED, resumed_from_step=0, metrics__step=MEASURED_STEPS[0])
        chosen = models.Subquery(ended.order_by("-pk").values("pk")[:newest])
        return self.model.objects.filter(pk__in=chosen).with_measures().order_by("-pk")


class Attempt(MayFail):
    """One execution of a job on one worker. Until its lease ends, the holder of its token may write for it."""

    job = models.ForeignKey(Job, models.PROTECT, related_name="attempts")
    number = models.PositiveSmallIntegerField()
    worker = models.ForeignKey(Worker, models.PROTECT, related_name="attempts")
    devices: models.ManyToManyField[Device, DeviceUse] = models.ManyToManyField(
        Device, through="DeviceUse", related_name="attempts"
    )
    state = models.CharField(max_length=10, choices=AttemptState, default=AttemptState.ASSIGNED)
    lease_token = models.UUIDField(null=True, help_text="Set when the attempt is claimed; every write must carry it.")
    lease_expires_at = models.DateTimeField(help_text="Before the claim: the time by which it must be claimed.")
    assigned_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    progress_at = models.DateTimeField(null=True, help_text="When it last had an event; heartbeats do not count.")
    events_offset = models.BigIntegerField(default=0, help_text="Bytes of the engine's event file already recorded.")
    log_tail = models.TextField(blank=True, help_text="The last lines of the engine's output.")
    resumed_from_step = models.PositiveIntegerField(default=0)
    swept_at = models.DateTimeField(null=True, help_text="When its leftovers in the artifact store were deleted.")
    stop_wish = models.CharField(max_length=10, choices=StopWish, blank=True)
    stop_reason = models.TextField(blank=True, help_text="Why it should stop, in a sentence.")

    # Set by `with_measures()`.
    peak_bytes: int
    most_tokens: int
    mean_tokens: float
    mean_supervised: float
    mean_seconds: float

    objects = AttemptQuerySet.as_manager()

    class Meta:
        ordering = ["-number"]
        indexes = [
            models.Index(
                fields=["lease_expires_at"],
                condition=models.Q(state__in=ACTIVE_ATTEMPT_STATES),
                name="attempt_active_by_lease",
            ),
            models.Index(fields=["finished_at"], name="attempt_by_end"),
            models.Index(
                fields=["finished_at"],
                condition=models.Q(swept_at=None, finished_at__isnull=False),
                name="attempt_unswept",
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="attempt_number_unique"),
            models.UniqueConstraint(
                fields=["job"], condition=models.Q(state__in=ACTIVE_ATTEMPT_STATES), name="job_has_one_active_attempt"
            ),
            models.CheckConstraint(condition=models.Q(state__in=AttemptState.values), name="attempt_state_known"),
            models.CheckConstraint(
                condition=models.Q(stop_wish__in=["", *StopWish.values]), name="attempt_stop_wish_known"
            ),
            models.CheckConstraint(
                condition=~models.Q(state=AttemptState.RUNNING) | models.Q(lease_token__isnull=False),
                name="running_attempt_has_lease",
            ),
            models.CheckConstraint(
                condition=models.Q(state__in=ACTIVE_ATTEMPT_STATES, finished_at=None)
                | (~models.Q(state__in=ACTIVE_ATTEMPT_STATES) & models.Q(finished_at__isnull=False)),
                name="attempt_finished_when_ended",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.job_id} attempt {self.number}"

    @property
    def artifact_prefix(self) -> str:
        """Where this attempt's files are stored in the artifact store; no other attempt writes there."""
        return f"jobs/{self.job_id}/{self.number}"

    @property
    def duration(self) -> timedelta | None:
        return self.finished_at - self.started_at if self.started_at and self.finished_at else None


SHARE_OF_DEVICE = Coalesce(
    Cast("memory_bytes", models.FloatField()) / models.F("device__memory_bytes"), 1.0, output_field=models.FloatField()
)


class DeviceUse(models.Model):
    """A device held by an attempt until `released_at`: whole, or part of its memory if it is shared.

    The database refuses to lend more than a device's memory, or to share it with an attempt that has it whole.
    """

    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="device_uses")
    device = models.ForeignKey(Device, models.PROTECT, related_name="uses")
    memory_bytes = models.BigIntegerField(null=True, help_text="Its part of a shared device; null: all of it.")
    released_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["device"], condition=models.Q(released_at=None), name="device_use_held"),
            models.Index(fields=["released_at"], name="device_use_by_end"),
        ]

    def __str__(self) -> str:
        return f"{self.device} for {self.attempt}"

    @property
    def share(self) -> float:
        """Its share of the device, 0 to 1, by which device time is multiplied; in queries: `SHARE_OF_DEVICE`."""
        return 1.0 if self.memory_bytes is None else self.memory_bytes / self.device.memory_bytes


def wait_of_job() -> models.Case:
    """Return a query expression for why a job waits, as one of `WAITS`; empty for one that runs or has ended."""
    active = Attempt.objects.active().filter(job=models.OuterRef("pk"))
    return models.Case(
        models.When(state__in=[JobState.VALIDATING, JobState.PAUSED], then=models.F("state")),
        models.When(~models.Q(state=JobState.QUEUED), then=models.Value("")),
        models.When(not_before__gt=Now(), then=models.Value("back_off")),
        models.When(~MAY_FOLLOW, then=models.Value("after_job")),
        models.When(models.Exists(active), then=models.Value("starting")),
        models.When(waiting_reason="", then=models.Value("scheduler")),
        default=models.F("waiting_code"),
        output_field=models.CharField(),
    )
