"""Submitted jobs, and the dataset versions that they read."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Coalesce, Now

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.querysets import TeamOwnedQuerySet
from finetune_hub.catalog.models import BaseModel, DatasetVersion, Deletable
from finetune_hub.jobs.kinds.kind import KINDS, MISSING_KIND, Kind
from finetune_hub.jobs.models.failure import FAILURE_CLASSES, MayFail
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.scheduling.changes import changed
from finetune_hub.scheduling.placement.reasons import WAIT_CODES
from finetune_hub.spec.compatibility import Compatibility
from finetune_hub.spec.ids import new_id
from finetune_hub.spec.training import TrainingSpec


class JobState(models.TextChoices):
    VALIDATING = "validating"
    QUEUED = "queued"
    PAUSED = "paused"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DesiredState(models.TextChoices):
    """A requested state, which the worker reads at every heartbeat; not the current state."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


# Why a job waits: placement's own reasons, and what keeps a job from reaching placement.
WAITS = ["validating", "paused", "back_off", "after_job", "scheduler", "starting", *WAIT_CODES]

ENDED_JOB_STATES = [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]

LOWEST_PRIORITY, HIGHEST_PRIORITY = -10, 10

# Documents of many kilobytes, which lists do not show.
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
    def shown(self) -> JobQuerySet:
        """Return the jobs that are not deleted."""
        return self.filter(deletion=None)

    def ended(self) -> JobQuerySet:
        return self.filter(state__in=ENDED_JOB_STATES)

    def for_list(self) -> JobQuerySet:
        """Return jobs newest first, with everything that a list shows, in one query."""
        rows = self.select_related("base_model", "created_by", "adapter_version__adapter").defer(*LONG_COLUMNS)
        return rows.order_by("-created_at", "-id")

    def for_page(self) -> JobQuerySet:
        """Return jobs with everything that a job's page shows."""
        whole = self.for_list().defer(None).select_related("team")
        return whole.prefetch_related("job_datasets__dataset_version__dataset")

    def in_queue_order(self) -> JobQuerySet:
        """Return queued jobs that may start now: by priority, then first come, first served."""
        waiting = self.filter(MAY_FOLLOW, state=JobState.QUEUED, not_before__lte=Now())
        return waiting.order_by("-priority", "requested_at", "id")


class Job(Deletable, MayFail):
    """A submitted piece of work. Each execution of it is an `Attempt`."""

    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "ftjob"))
    team = models.ForeignKey(Team, models.PROTECT, related_name="jobs")
    created_by = models.ForeignKey(User, models.PROTECT, related_name="jobs")
    kind = models.CharField(max_length=10, help_text="The name of one of `kinds.kind.KINDS`.")
    state = models.CharField(max_length=10, choices=JobState, default=JobState.VALIDATING)
    desired_state = models.CharField(max_length=10, choices=DesiredState, default=DesiredState.RUN)
    spec = models.JSONField(help_text="As submitted: a TrainingSpec for a training, the options for other kinds.")
    base_model = models.ForeignKey(
        BaseModel, models.PROTECT, null=True, related_name="jobs", help_text="null: its kind has none."
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
    parent = models.ForeignKey(
        "self", models.PROTECT, null=True, related_name="children", help_text="The job that it is part of."
    )
    address = models.CharField(
        max_length=200,
        blank=True,
        db_default="",
        help_text="Where its running attempt can be reached, for kinds that serve.",
    )
    adjustments = models.JSONField(
        default=dict, help_text="Spec fields that the service has changed since, by field path."
    )
    excluded_devices = ArrayField(
        models.BigIntegerField(), default=list, help_text="Ids of devices on which it failed; placement avoids them."
    )
    memory_bytes_needed = models.BigIntegerField(
        null=True,
        help_text="Memory that each of its devices must have, including the planner's margin; null: unknown.",
    )

    created_at = models.DateTimeField(db_default=Now())
    requested_at = models.DateTimeField(
        db_default=Now(),
        help_text="When it was submitted or last retried; orders the queue and starts its run time.",
    )
    not_before = models.DateTimeField(db_default=Now(), help_text="The end of the backoff after a failed attempt.")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    waiting_reason = models.TextField(blank=True, help_text="Why it does not run yet, as of the scheduler's last pass.")
    waiting_code = models.CharField(max_length=20, blank=True, help_text="Machine-readable reason why it waits.")
    expected_start_at = models.DateTimeField(null=True, help_text="When it is expected to start.")
    expected_seconds = models.FloatField(null=True, help_text="How long the planner expects the whole run to take.")
    fruitless_attempts = models.PositiveSmallIntegerField(
        default=0, help_text="Failed attempts in a row without a new checkpoint; limits the retries."
    )
    event_count = models.PositiveIntegerField(default=0, help_text="The number of its newest event.")

    step = models.PositiveIntegerField(default=0)
    total_steps = models.PositiveIntegerField(null=True)
    progress_unit = models.CharField(max_length=20, default="steps", help_text="What `step` counts.")
    eta_seconds = models.FloatField(null=True)
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
        """Its kind."""
        return KINDS.get(self.kind, MISSING_KIND)

    @property
    def readable_kind(self) -> Kind:
        """Its kind, if everything in its spec is available. It reads the spec."""
        return self.of_kind if self.of_kind.reads(self) else MISSING_KIND

    @property
    def subject(self) -> str:
        """The name of what the job creates or measures; needs what `for_list` fetches."""
        return self.of_kind.subject(self)

    @property
    def over(self) -> BaseModel:
        """The base model that it trains, measures or imports, for kinds that have one."""
        assert self.base_model is not None
        return self.base_model

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED_JOB_STATES

    @property
    def is_stopping(self) -> bool:
        """Whether a cancel was requested and the trainer has not stopped yet."""
        return not self.has_ended and self.desired_state == DesiredState.CANCEL

    @property
    def expected_start(self) -> datetime | None:
        """When it is expected to start; None: it is not waiting, or the time is unknown."""
        return self.expected_start_at if self.waiting_reason else None

    @property
    def is_pausing(self) -> bool:
        """Whether a pause was requested and the job is not paused yet."""
        return not self.has_ended and self.desired_state == DesiredState.PAUSE and self.state != JobState.PAUSED

    @property
    def shown_state(self) -> str:
        """The state in a word; `stopping` or `pausing` while such a request is pending."""
        return "stopping" if self.is_stopping else "pausing" if self.is_pausing else self.state

    @property
    def may_pause(self) -> bool:
        return not self.has_ended and self.desired_state == DesiredState.RUN

    @property
    def may_resume(self) -> bool:
        return not self.has_ended and self.desired_state == DesiredState.PAUSE

    @property
    def may_be_preempted(self) -> bool:
        is_running = self.state == JobState.RUNNING and self.desired_state == DesiredState.RUN
        return is_running and self.of_kind.needs_device

    @property
    def may_retry(self) -> bool:
        return self.state in {JobState.FAILED, JobState.CANCELLED}

    @property
    def awaited(self) -> str:
        """A sentence about the job that it starts after; empty if that job has succeeded or there is none."""
        if self.after is None or self.after.state == JobState.SUCCEEDED:
            return ""
        return f"It starts once {self.after.subject} ({self.after_id}) has succeeded."

    def training_spec(self) -> TrainingSpec:
        """Return the spec of a training as its next attempt would run it."""
        return changed(TrainingSpec.model_validate(self.spec), self.adjustments)

    def run_time(self) -> timedelta:
        """Return how long its attempts have run since submission or the last retry, by the database's clock."""
        span = models.ExpressionWrapper(
            Coalesce("finished_at", Now()) - models.F("started_at"), output_field=models.DurationField()
        )
        attempts = self.attempts.filter(assigned_at__gte=self.requested_at)
        total: timedelta | None = attempts.aggregate(total=models.Sum(span))["total"]
        return total or timedelta()

    def next_start(self) -> str:
        """Return where its next attempt starts, in words."""
        newest = self.checkpoints.order_by("-step").first()
        return f"from the checkpoint of step {newest.step}" if newest else "from the beginning"

    def compatibility(self) -> list[Compatibility] | None:
        """Return which programs can serve what the job trains; None for a job that trains nothing."""
        return self.readable_kind.compatibility(self)


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
