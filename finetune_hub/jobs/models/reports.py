"""Everything that an attempt reports: events, the loss curve, checkpoints, and what it published."""

from __future__ import annotations

import math

from django.db import models
from django.db.models.functions import Now

from finetune_hub.accounts.models import User
from finetune_hub.jobs.models.attempt import Attempt
from finetune_hub.jobs.models.job import Job
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.events import Step
from finetune_hub.spec.measures import MEASURES, Measure


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
        """Return one point per step: a resumed attempt repeats steps, and the newest attempt's point is used."""
        attempts = list(job.attempts.values_list("pk", flat=True))
        points = self.filter(attempt__in=attempts).with_attempt_number()
        if len(attempts) == 1:  # No step is repeated, and the primary key has the points in order.
            return points.order_by("step")
        return points.order_by("step", "-attempt__number").distinct("step")

    def of_job_after(self, job_id: str, *, attempt_number: int, step: int) -> MetricPointQuerySet:
        """Return the points recorded after this one, in the order in which attempts record them."""
        later_attempt = models.Q(attempt__number__gt=attempt_number)
        later_step = models.Q(attempt__number=attempt_number, step__gt=step)
        points = self.filter(later_attempt | later_step, attempt__job_id=job_id)
        return points.order_by("attempt__number", "step").with_attempt_number()

    def newest_of(self, job: Job) -> MetricPoint | None:
        """Return the last step of the newest attempt that has taken one."""
        begun = job.attempts.filter(models.Exists(self.filter(attempt=models.OuterRef("pk")))).order_by("-number")
        of_newest = self.filter(attempt=models.Subquery(begun.values("pk")[:1]))
        return of_newest.with_attempt_number().order_by("-step").first()

    def with_attempt_number(self) -> MetricPointQuerySet:
        """Add `attempt_number` without loading the attempt's row, because its log is long."""
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
    measures = models.JSONField(
        default=dict,
        db_default=models.Value({}, models.JSONField()),
        help_text="Other measures of the objective: see `spec.measures`.",
    )

    attempt_number: int

    objects = MetricPointQuerySet.as_manager()

    def __str__(self) -> str:
        return f"step {self.step}: loss {self.loss:.4f}"

    @classmethod
    def of_step(cls, attempt: Attempt, step: Step) -> MetricPoint:
        """Build the point of a step. Measures that are not finite are left out, because JSON cannot represent them."""
        measures = {name: value for name, value in step.measures.items() if math.isfinite(value)}
        return cls(attempt=attempt, **step.model_dump(exclude={"type", "at", "measures"}), measures=measures)

    def measured(self) -> list[tuple[Measure, float]]:
        """Return its measures in the order in which they are declared."""
        return [(measure, self.measures[name]) for name, measure in MEASURES.items() if name in self.measures]


class Checkpoint(models.Model):
    """A complete checkpoint in the artifact store, from which another attempt can resume."""

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
    """What a job published. The database enforces one adapter version per step and kind."""

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
