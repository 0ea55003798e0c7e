"""Jobs, their attempts under a lease, and all that an attempt reports. Postgres owns these truths (P2, P3)."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from statistics import median
from typing import get_args

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Cast, Coalesce, Now

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.querysets import TeamOwnedQuerySet
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.fleet.models import Device, Worker
from finetune_hub.jobs.kinds.kind import KINDS, Kind
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.scheduling.changes import changed
from finetune_hub.scheduling.placement.reasons import WAIT_CODES
from finetune_hub.spec.compatibility import Compatibility
from finetune_hub.spec.events import FailureClass
from finetune_hub.spec.ids import new_id
from finetune_hub.spec.training import TrainingSpec

FAILURE_CLASSES = list(get_args(FailureClass))


class JobState(models.TextChoices):
    VALIDATING = "validating"
    QUEUED = "queued"
    PAUSED = "paused"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DesiredState(models.TextChoices):
    """A wish, which the worker reads at every heartbeat; not a state."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


# Why a job waits: placement's own verdicts, and what keeps a job from being looked at by it.
WAITS = ["validating", "paused", "back_off", "after_job", "scheduler", "starting", *WAIT_CODES]

ENDED_JOB_STATES = [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]

REMEMBERED_ATTEMPTS = 20

LOWEST_PRIORITY, HIGHEST_PRIORITY = -10, 10

# Documents of many kilobytes, which no line of a list shows.
LONG_COLUMNS = [
    "result",
    "base_model__facts",
    "adapter_version__training_spec",
    "adapter_version__summary",
    "adapter_version__verification",
    "adapter_version__model_card",
]


MAY_FOLLOW = models.Q(after=None) | models.Q(after__state=JobState.SUCCEEDED)


class JobQuerySet(TeamOwnedQuerySet["Job"]):
    def ended(self) -> JobQuerySet:
        return self.filter(state__in=ENDED_JOB_STATES)

    def for_list(self) -> JobQuerySet:
        """Newest first, with what a line of the list shows, in one query."""
        rows = self.select_related("base_model", "created_by", "adapter_version__adapter").defer(*LONG_COLUMNS)
        return rows.order_by("-created_at", "-id")

    def for_page(self) -> JobQuerySet:
        """With everything that the page of one job names."""
        whole = self.for_list().defer(None).select_related("team")
        return whole.prefetch_related("job_datasets__dataset_version__dataset")

    def usual_seconds(self, kind: str) -> float | None:
        """What the newest that succeeded took, in the middle; None: there are none."""
        ended = Attempt.objects.filter(job__kind=kind, state=AttemptState.SUCCEEDED, started_at__isnull=False)
        durations = [attempt.duration for attempt in ended.defer("log_tail").order_by("-pk")[:REMEMBERED_ATTEMPTS]]
        seconds = [duration.total_seconds() for duration in durations if duration]
        return median(seconds) if seconds else None

    def in_queue_order(self) -> JobQuerySet:
        """Queued jobs that may start now: by priority, then first come first."""
        waiting = self.filter(MAY_FOLLOW, state=JobState.QUEUED, not_before__lte=Now())
        return waiting.order_by("-priority", "requested_at", "id")


class Job(models.Model):
    """Work that somebody asked for. Each execution of it is an `Attempt`."""

    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "ftjob"))
    team = models.ForeignKey(Team, models.PROTECT, related_name="jobs")
    created_by = models.ForeignKey(User, models.PROTECT, related_name="jobs")
    kind = models.CharField(max_length=10, help_text="The name of one of `kinds.kind.KINDS`.")
    state = models.CharField(max_length=10, choices=JobState, default=JobState.VALIDATING)
    desired_state = models.CharField(max_length=10, choices=DesiredState, default=DesiredState.RUN)
    spec = models.JSONField(help_text="What was asked for: of a training a TrainingSpec, of other kinds their options.")
    base_model = models.ForeignKey(
        BaseModel, models.PROTECT, null=True, related_name="jobs", help_text="None: its kind has none."
    )
    dataset_versions: models.ManyToManyField[DatasetVersion, JobDataset] = models.ManyToManyField(
        DatasetVersion, through="JobDataset", related_name="jobs"
    )
    adapter_version = models.ForeignKey(
        AdapterVersion, models.PROTECT, null=True, related_name="evaluations", help_text="What an evaluation measures."
    )
    idempotency_key = models.CharField(max_length=255, null=True)  # noqa: DJ001
    priority = models.SmallIntegerField(default=0, help_text="Higher ones are placed first.")
    after = models.ForeignKey(
        "self", models.PROTECT, null=True, related_name="followers", help_text="It starts once this one has succeeded."
    )
    adjustments = models.JSONField(
        default=dict, help_text="Fields of the spec that the service has changed since, by their place."
    )
    excluded_devices = ArrayField(
        models.BigIntegerField(), default=list, help_text="Ids of devices that failed it; placement looks elsewhere."
    )
    memory_bytes_needed = models.BigIntegerField(
        null=True,
        help_text="Memory that each of its devices must have, the planner's margin included; null: not known.",
    )

    created_at = models.DateTimeField(db_default=Now())
    requested_at = models.DateTimeField(
        db_default=Now(),
        help_text="When it was submitted or last retried: its place in line, and its run time's start.",
    )
    not_before = models.DateTimeField(db_default=Now(), help_text="The end of the back-off after a failed attempt.")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    waiting_reason = models.TextField(blank=True, help_text="Why it is not running yet, as the scheduler last saw it.")
    waiting_code = models.CharField(max_length=20, blank=True, help_text="What blocks it, for programs.")
    expected_start_at = models.DateTimeField(null=True, help_text="When it starts if all goes as expected.")
    expected_seconds = models.FloatField(null=True, help_text="How long the planner expects the whole run to take.")
    fruitless_attempts = models.PositiveSmallIntegerField(
        default=0, help_text="Attempts lost in a row without a new checkpoint; the cap on retries counts these."
    )
    event_count = models.PositiveIntegerField(default=0, help_text="The number of its newest event.")

    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(null=True)
    progress_unit = models.CharField(max_length=20, default="steps", help_text="What `step` counts.")
    eta_seconds = models.FloatField(null=True)
    failure_class = models.CharField(max_length=20, blank=True)
    failure_message = models.TextField(blank=True)
    failure_remedy = models.TextField(blank=True)
    result = models.JSONField(null=True, help_text="What the last attempt reported at its end.")

    objects = JobQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["team", "-created_at", "-id"], name="job_by_team"),
            models.Index(
                fields=["-priority", "requested_at", "id"],
                condition=~models.Q(state__in=ENDED_JOB_STATES),
                name="job_unfinished",
            ),
        ]
        constraints = [
            models.UniqueConstraint(fields=["team", "idempotency_key"], name="job_idempotency_key_unique"),
            models.CheckConstraint(condition=models.Q(state__in=JobState.values), name="job_state_known"),
            models.CheckConstraint(
                condition=models.Q(desired_state__in=DesiredState.values), name="job_desired_state_known"
            ),
            models.CheckConstraint(
                condition=models.Q(state__in=ENDED_JOB_STATES, finished_at__isnull=False)
                | (~models.Q(state__in=ENDED_JOB_STATES) & models.Q(finished_at=None)),
                name="job_finished_when_ended",
            ),
            models.CheckConstraint(
                condition=models.Q(priority__range=(LOWEST_PRIORITY, HIGHEST_PRIORITY)), name="job_priority_in_range"
            ),
            models.CheckConstraint(
                condition=models.Q(failure_class__in=["", *FAILURE_CLASSES]), name="job_failure_class_known"
            ),
            models.CheckConstraint(
                condition=~models.Q(state=JobState.FAILED) | ~models.Q(failure_class=""), name="job_failed_has_class"
            ),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def of_kind(self) -> Kind:
        """What is true of all jobs of its kind."""
        return KINDS[self.kind]

    @property
    def subject(self) -> str:
        """What the job makes or measures, by name; needs what `for_list` fetches."""
        return self.of_kind.subject(self)

    @property
    def over(self) -> BaseModel:
        """The base model that it trains over, measures or imports, for kinds that have one."""
        assert self.base_model is not None
        return self.base_model

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED_JOB_STATES

    @property
    def is_stopping(self) -> bool:
        """Somebody asked to cancel, and the trainer has not stopped yet."""
        return not self.has_ended and self.desired_state == DesiredState.CANCEL

    @property
    def expected_start(self) -> datetime | None:
        """When it starts if all goes as expected; None: it waits for nothing, or nobody knows."""
        return self.expected_start_at if self.waiting_reason else None

    @property
    def is_pausing(self) -> bool:
        """Somebody asked to pause, and the job does not rest yet."""
        return not self.has_ended and self.desired_state == DesiredState.PAUSE and self.state != JobState.PAUSED

    @property
    def shown_state(self) -> str:
        """The state in a word; between a wish and its fulfilment `stopping` or `pausing`."""
        return "stopping" if self.is_stopping else "pausing" if self.is_pausing else self.state

    @property
    def may_pause(self) -> bool:
        return not self.has_ended and self.desired_state == DesiredState.RUN

    @property
    def may_resume(self) -> bool:
        return not self.has_ended and self.desired_state == DesiredState.PAUSE

    @property
    def may_be_preempted(self) -> bool:
        return self.state == JobState.RUNNING and self.desired_state == DesiredState.RUN

    @property
    def may_retry(self) -> bool:
        return self.state in {JobState.FAILED, JobState.CANCELLED}

    @property
    def awaited(self) -> str:
        """A sentence about the job that it is to follow; empty when nothing is in its way."""
        if self.after is None or self.after.state == JobState.SUCCEEDED:
            return ""
        return f"It starts once {self.after.subject} ({self.after_id}) has succeeded."

    def training_spec(self) -> TrainingSpec:
        """The spec of a job of kind train, as its next attempt would run it."""
        return changed(TrainingSpec.model_validate(self.spec), self.adjustments)

    def run_time(self) -> timedelta:
        """How long its attempts have run since it was submitted or last retried, on the database's clock."""
        span = models.ExpressionWrapper(
            Coalesce("finished_at", Now()) - models.F("started_at"), output_field=models.DurationField()
        )
        attempts = self.attempts.filter(assigned_at__gte=self.requested_at)
        total: timedelta | None = attempts.aggregate(total=models.Sum(span))["total"]
        return total or timedelta()

    def next_start(self) -> str:
        """Where its next attempt begins, in words."""
        newest = self.checkpoints.order_by("-step").first()
        return f"from the checkpoint of step {newest.step}" if newest else "from the beginning"

    def compatibility(self) -> list[Compatibility] | None:
        """Which programs will be able to serve what the job trains; None for a job that trains nothing."""
        return self.of_kind.compatibility(self)


def wait_of_job() -> models.Case:
    """Why a job does not run, as one of `WAITS`; empty for one that does, or has ended. An expression for queries."""
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


class JobDataset(models.Model):
    """A dataset version that a job reads, and how often its rows are drawn."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="job_datasets")
    dataset_version = models.ForeignKey(DatasetVersion, models.PROTECT, related_name="job_datasets")
    position = models.PositiveSmallIntegerField()
    weight = models.FloatField(default=1.0)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["job", "position"], name="job_dataset_position_unique"),
            models.UniqueConstraint(fields=["job", "dataset_version"], name="job_dataset_once"),
        ]

    def __str__(self) -> str:
        return f"{self.dataset_version} in {self.job_id}"


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
    """Why the service itself wants an attempt to stop; what people wish is the job's `desired_state`."""

    PREEMPT = "preempt"
    TIME_OUT = "time_out"


MEASURED_STEPS = (2, 100)  # Without the warm-up; the peak comes long before the last.


class AttemptQuerySet(models.QuerySet["Attempt"]):
    def active(self) -> AttemptQuerySet:
        return self.filter(state__in=ACTIVE_ATTEMPT_STATES)

    def for_page(self) -> AttemptQuerySet:
        """Newest first, each with its worker and devices; without the log, which is long."""
        return self.select_related("worker").prefetch_related("devices").defer("log_tail").order_by("-number")

    def expired(self) -> AttemptQuerySet:
        """Active attempts whose lease, or time to be claimed, has ended on the database's clock."""
        return self.active().filter(lease_expires_at__lte=Now())

    def with_measures(self) -> AttemptQuerySet:
        """Those that have taken a few steps, with what these took: `peak_bytes` and its kin of `Attempt`."""
        added: dict[str, models.Aggregate] = {
            "peak_bytes": models.Max("metrics__peak_memory_bytes"),
            "most_tokens": models.Max("metrics__tokens"),
            "mean_tokens": models.Avg("metrics__tokens"),
            "mean_supervised": models.Avg("metrics__supervised_tokens"),
            "mean_seconds": models.Avg("metrics__seconds"),
        }
        rows = self.filter(metrics__step__range=MEASURED_STEPS).annotate(**added)
        return rows.select_related("job__base_model").prefetch_related("devices").defer("log_tail")

    def to_learn_from(self, newest: int) -> AttemptQuerySet:
        """The newest that succeeded in one go, of those that took steps, with what these took."""
        ended = self.filter(state=AttemptState.SUCCEEDED, resumed_from_step=0, metrics__step=MEASURED_STEPS[0])
        chosen = models.Subquery(ended.order_by("-pk").values("pk")[:newest])
        return self.model.objects.filter(pk__in=chosen).with_measures().order_by("-pk")


class Attempt(models.Model):
    """One execution of a job on one worker. Whoever holds its lease token before the lease ends may write for it."""

    job = models.ForeignKey(Job, models.PROTECT, related_name="attempts")
    number = models.PositiveSmallIntegerField()
    worker = models.ForeignKey(Worker, models.PROTECT, related_name="attempts")
    devices: models.ManyToManyField[Device, DeviceUse] = models.ManyToManyField(
        Device, through="DeviceUse", related_name="attempts"
    )
    state = models.CharField(max_length=10, choices=AttemptState, default=AttemptState.ASSIGNED)
    lease_token = models.UUIDField(null=True, help_text="Given when the attempt is claimed; the fence of every write.")
    lease_expires_at = models.DateTimeField(help_text="Before the claim: the time by which it must be claimed.")
    assigned_at = models.DateTimeField(db_default=Now())
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    progress_at = models.DateTimeField(null=True, help_text="The last event; heartbeats are not progress.")
    events_offset = models.BigIntegerField(default=0, help_text="Bytes of the engine's event file already recorded.")
    log_tail = models.TextField(blank=True, help_text="The last lines of the engine's output.")
    failure_class = models.CharField(max_length=20, blank=True)
    failure_message = models.TextField(blank=True)
    resumed_from_step = models.PositiveIntegerField(default=0)
    swept_at = models.DateTimeField(null=True, help_text="When what it left in the artifact store was collected.")
    stop_wish = models.CharField(max_length=10, choices=StopWish, blank=True)
    stop_reason = models.TextField(blank=True, help_text="Why it is to stop, in a sentence.")

    # Of `with_measures()`.
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
        """Where this attempt's files lie in the artifact store: a path that no other attempt writes to."""
        return f"jobs/{self.job_id}/{self.number}"

    @property
    def duration(self) -> timedelta | None:
        return self.finished_at - self.started_at if self.started_at and self.finished_at else None


SHARE_OF_DEVICE = Coalesce(
    Cast("memory_bytes", models.FloatField()) / models.F("device__memory_bytes"), 1.0, output_field=models.FloatField()
)


class DeviceUse(models.Model):
    """A device held by an attempt, until `released_at`: whole, or a part of its memory where it is shared.

    The database itself refuses to lend a device beyond its memory, or to several attempts one of which has it whole.
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
        """Its part of the device, 0 to 1, as the device's time counts for it: `SHARE_OF_DEVICE` for the database."""
        return 1.0 if self.memory_bytes is None else self.memory_bytes / self.device.memory_bytes


class JobEvent(models.Model):
    """Something that happened to a job, numbered per job without gaps, in the order of commits."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="events")
    number = models.PositiveIntegerField()
    attempt = models.ForeignKey(Attempt, models.CASCADE, null=True, related_name="events")
    actor = models.ForeignKey(User, models.PROTECT, null=True, related_name="+")
    created_at = models.DateTimeField(db_default=Now())
    level = models.CharField(max_length=5, default="info")
    message = models.TextField()

    class Meta:
        ordering = ["number"]
        constraints = [
            models.UniqueConstraint(fields=["job", "number"], name="job_event_number_unique"),
            models.CheckConstraint(
                condition=models.Q(level__in=["info", "warn", "error"]), name="job_event_level_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.job_id} #{self.number}: {self.message}"


class MetricPointQuerySet(models.QuerySet["MetricPoint"]):
    def curve_of(self, job: Job) -> MetricPointQuerySet:
        """One point a step: a resumed attempt repeats steps, and the newest attempt's point stands."""
        attempts = list(job.attempts.values_list("pk", flat=True))
        points = self.filter(attempt__in=attempts).with_attempt_number()
        if len(attempts) == 1:  # Nothing is repeated, and the primary key has the points in order.
            return points.order_by("step")
        return points.order_by("step", "-attempt__number").distinct("step")

    def of_job_after(self, job_id: str, *, attempt_number: int, step: int) -> MetricPointQuerySet:
        """The points recorded after this one, in the order in which attempts record them."""
        later_attempt = models.Q(attempt__number__gt=attempt_number)
        later_step = models.Q(attempt__number=attempt_number, step__gt=step)
        points = self.filter(later_attempt | later_step, attempt__job_id=job_id)
        return points.order_by("attempt__number", "step").with_attempt_number()

    def newest_of(self, job: Job) -> MetricPoint | None:
        """The last step of the newest attempt that has taken one."""
        begun = job.attempts.filter(models.Exists(self.filter(attempt=models.OuterRef("pk")))).order_by("-number")
        return self.filter(attempt=models.Subquery(begun.values("pk")[:1])).order_by("-step").first()

    def with_attempt_number(self) -> MetricPointQuerySet:
        """Adds `attempt_number` without the attempt's row, whose log is long."""
        number = {"attempt_number": models.F("attempt__number")}
        return self.annotate(**number)


class MetricPoint(models.Model):
    """One optimizer step of one attempt."""

    pk = models.CompositePrimaryKey("attempt_id", "step")
    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField()
    epoch = models.FloatField()
    loss = models.FloatField(help_text="Mean over the step's supervised tokens, or its pairs (DPO), in nats.")
    learning_rate = models.FloatField()
    grad_norm = models.FloatField()
    tokens = models.PositiveIntegerField()
    supervised_tokens = models.PositiveIntegerField()
    seconds = models.FloatField()
    peak_memory_bytes = models.BigIntegerField()
    reward_margin = models.FloatField(null=True, help_text="DPO: beta times the mean margin between answers, in nats.")
    reward_accuracy = models.FloatField(null=True, help_text="DPO: share of the pairs whose margin is above 0.")

    attempt_number: int

    objects = MetricPointQuerySet.as_manager()

    def __str__(self) -> str:
        return f"step {self.step}: loss {self.loss:.4f}"


class Checkpoint(models.Model):
    """A complete checkpoint in the artifact store, from which another attempt can go on."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="checkpoints")
    attempt = models.ForeignKey(Attempt, models.CASCADE, related_name="checkpoints")
    step = models.PositiveIntegerField()
    artifact_prefix = models.CharField(max_length=500, unique=True)
    manifest = models.JSONField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-step"]
        constraints = [models.UniqueConstraint(fields=["attempt", "step"], name="checkpoint_once")]

    def __str__(self) -> str:
        return f"{self.job_id} step {self.step}"

    @property
    def keys(self) -> list[str]:
        """Its files in the artifact store."""
        return [f"{self.artifact_prefix}/{entry['path']}" for entry in self.manifest]


class Publication(models.Model):
    """What a job published: one adapter version per step and kind, which the database enforces."""

    job = models.ForeignKey(Job, models.PROTECT, related_name="publications")
    attempt = models.ForeignKey(Attempt, models.PROTECT, related_name="publications")
    step = models.PositiveIntegerField()
    kind = models.CharField(max_length=10, default="final")
    adapter_version = models.OneToOneField(AdapterVersion, models.PROTECT, related_name="publication")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["job", "step", "kind"], name="published_once"),
            models.UniqueConstraint(fields=["job"], condition=models.Q(kind="final"), name="one_final_adapter_per_job"),
        ]

    def __str__(self) -> str:
        return f"{self.adapter_version} by {self.job_id}"
