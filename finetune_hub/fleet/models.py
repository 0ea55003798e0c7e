"""The fleet: workers with their heartbeats and canaries, and their devices."""

from __future__ import annotations

from datetime import timedelta
from importlib.metadata import version

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from finetune_hub.accounts.models import Team


class WorkerQuerySet(models.QuerySet["Worker"]):
    def in_fleet(self) -> WorkerQuerySet:
        """Return workers that were not removed, or that have joined again since."""
        return self.filter(removed_at=None)

    def fit_for_work(self) -> WorkerQuerySet:
        """Return workers that may get an attempt: not drained, alive, consuming their queue, with free disk space."""
        has_room = models.Q(free_bytes=None) | models.Q(free_bytes__gte=settings.WORKER_MIN_FREE_BYTES)
        return self.in_fleet().filter(
            has_room,
            drain_requested=False,
            heartbeat_at__gt=Now() - settings.CANARY_MISSING_AFTER,
            canary_at__gt=Now() - settings.CANARY_MISSING_AFTER,
        )

    def most_devices(self) -> int | None:
        """Return the most devices of one kind and name on one worker; None: there is no device."""
        alike = Device.objects.filter(worker__in=self, present=True).values("worker", "kind", "name")
        most: int | None = alike.annotate(count=models.Count("pk")).aggregate(most=models.Max("count"))["most"]
        return most

    def with_health(self) -> WorkerQuerySet:
        """Add `heartbeat_age` and `canary_age`, both by the database's clock, and `has_attempts`."""
        added: dict[str, models.expressions.Combinable] = {
            f"{name}_age": models.ExpressionWrapper(Now() - models.F(f"{name}_at"), output_field=models.DurationField())
            for name in ("heartbeat", "canary")
        }
        active = Worker.objects.filter(pk=models.OuterRef("pk"), attempts__finished_at=None, attempts__isnull=False)
        added["has_attempts"] = models.Exists(active)
        return self.annotate(**added)


class Worker(models.Model):
    """One host's worker process. Heartbeats show that it is alive, consumed canary tasks that it is healthy."""

    name = models.SlugField(max_length=64, unique=True)
    hostname = models.CharField(max_length=255)
    version = models.CharField(max_length=40)
    labels = ArrayField(
        models.CharField(max_length=40), default=list, help_text="Words that jobs may require, set when it starts."
    )
    drain_requested = models.BooleanField(default=False, help_text="It gets no new attempts; running ones continue.")
    registered_at = models.DateTimeField(db_default=Now())
    heartbeat_at = models.DateTimeField(db_default=Now())
    canary_at = models.DateTimeField(db_default=Now(), help_text="When it last consumed a canary task.")
    free_bytes = models.BigIntegerField(null=True, help_text="Free space on the disk of its work folder.")
    cached_revisions = ArrayField(
        models.CharField(max_length=64),
        null=True,
        help_text="Revisions of the base models in its cache; null: not reported.",
    )
    removed_at = models.DateTimeField(null=True, help_text="When it was removed; null after it joins again.")

    heartbeat_age: timedelta
    canary_age: timedelta
    has_attempts: bool

    objects = WorkerQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    @property
    def queue(self) -> str:
        """The worker's own Celery queue."""
        return f"worker.{self.name}"

    @property
    def is_of_another_version(self) -> bool:
        """Whether its version differs from this process's; one release older is still supported (P4)."""
        return self.version != version("finetune_hub")

    @property
    def has_full_disk(self) -> bool:
        return self.free_bytes is not None and self.free_bytes < settings.WORKER_MIN_FREE_BYTES

    def health(self) -> tuple[str, str]:
        """Return its health as a word and a sentence; needs `with_health()`."""
        limit = settings.CANARY_MISSING_AFTER
        if self.heartbeat_age > limit:
            return "offline", f"No heartbeat for {self.heartbeat_age.total_seconds():.0f} s. Is its process running?"
        if self.canary_age > limit:
            return "unhealthy", (
                f"It has consumed no canary task for {self.canary_age.total_seconds():.0f} s, so it gets no job. "
                "Its connection to Redis is stuck. Restart the worker; running trainers continue."
            )
        if self.has_full_disk:
            return "unhealthy", (
                f"Its disk has only {self.free_bytes or 0:,} bytes free, so it gets no job. "
                f"Free some space in its home folder."
            )
        if self.drain_requested and self.has_attempts:
            return "draining", "It gets no new jobs; running jobs continue."
        if self.drain_requested:
            return "drained", "It gets no new jobs, and none is running. You can stop it now."
        return "healthy", f"Heartbeat {self.heartbeat_age.total_seconds():.0f} s ago."


class DeviceKind(models.TextChoices):
    CPU = "cpu", "CPU"
    CUDA = "cuda", "NVIDIA GPU"


class DeviceQuerySet(models.QuerySet["Device"]):
    def lendable(self) -> DeviceQuerySet:
        """Return devices that are present and not quarantined."""
        return self.filter(present=True, quarantined_at=None)


class Device(models.Model):
    """A device for attempts: a GPU, or the machine's CPU cores or a share of them."""

    worker = models.ForeignKey(Worker, models.CASCADE, related_name="devices")
    index = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=10, choices=DeviceKind)
    name = models.CharField(max_length=200)
    memory_bytes = models.BigIntegerField()
    cores = models.PositiveSmallIntegerField(
        null=True, help_text="Cores of a CPU device, at most so many jobs share it; null: unknown, or a GPU."
    )
    present = models.BooleanField(default=True, help_text="False once the worker no longer reports it.")
    is_shared = models.BooleanField(
        default=False, help_text="Several small jobs may use it at a time, within its memory."
    )
    quarantined_at = models.DateTimeField(null=True, help_text="When it reported a fault; it gets no new jobs.")
    quarantine_reason = models.TextField(blank=True)

    # As last read, see `DeviceSample`.
    driver = models.CharField(max_length=40, blank=True)
    temperature_celsius = models.SmallIntegerField(null=True)
    other_processes = models.PositiveSmallIntegerField(default=0, help_text="Processes on it that are not the hub's.")

    objects = DeviceQuerySet.as_manager()

    class Meta:
        ordering = ["worker_id", "index"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(quarantined_at=None) | ~models.Q(quarantine_reason=""),
                name="device_quarantine_has_reason",
            ),
            models.UniqueConstraint(fields=["worker", "kind", "index"], name="device_index_unique_on_worker"),
            models.CheckConstraint(condition=models.Q(kind__in=DeviceKind.values), name="device_kind_known"),
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.worker.name}"

    @property
    def max_runs(self) -> int | None:
        """How many jobs may share it, however little memory they need; None: any number."""
        return (self.cores or 1) if self.kind == DeviceKind.CPU else None


class WorkerRole(models.Model):
    """The database role of a worker on another machine, created by `worker_role`. Its password is not stored."""

    worker_name = models.SlugField(max_length=64, unique=True)
    role_name = models.CharField(max_length=63, unique=True)
    created_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.role_name} for {self.worker_name}"


class TeamQuota(models.Model):
    """What a team may use of the fleet. A team without a quota may use all of it, with weight 1."""

    team = models.OneToOneField(Team, models.CASCADE, primary_key=True, related_name="quota")
    max_devices = models.PositiveIntegerField(null=True, help_text="Devices at a time; null: unlimited.")
    max_hours = models.FloatField(null=True, help_text="Device hours per calendar month (UTC); null: unlimited.")
    weight = models.FloatField(default=1.0, help_text="Its share of a full fleet, relative to other teams.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=models.Q(max_hours=None) | models.Q(max_hours__gte=0), name="hours_quota"),
            models.CheckConstraint(condition=models.Q(weight__gt=0), name="quota_weight_positive"),
        ]

    def __str__(self) -> str:
        devices = "any number of devices" if self.max_devices is None else f"{self.max_devices} devices"
        hours = "any number of hours" if self.max_hours is None else f"{self.max_hours:g} hours"
        return f"{devices} at a time, {hours} per month, weight {self.weight:g}"


class DeviceSample(models.Model):
    """How busy a device was at one time; kept for a day."""

    device = models.ForeignKey(Device, models.CASCADE, related_name="samples")
    at = models.DateTimeField(db_default=Now())
    utilisation = models.FloatField(null=True, help_text="Share of the time since the last reading, 0 to 1.")
    memory_used_bytes = models.BigIntegerField(null=True)

    class Meta:
        ordering = ["at"]
        indexes = [models.Index(fields=["device", "at"], name="device_sample_by_time")]

    def __str__(self) -> str:
        return f"{self.device_id} at {self.at}"
