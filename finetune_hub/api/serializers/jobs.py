"""Responses about jobs: attempts, events, metrics and logs."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from finetune_hub.api.serializers.artifacts import CompatibilitySerializer
from finetune_hub.jobs.kinds.kind import KINDS
from finetune_hub.jobs.models import Attempt, Job, JobDataset, JobEvent, JobState, MetricPoint
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.scheduling.placement.reasons import WAIT_CODES
from finetune_hub.spec.measures import MEASURES
from finetune_hub.spec.problem import Failed


class FailureSerializer(serializers.Serializer[Failed]):
    failure_class = serializers.CharField(source="code", help_text="bad_config, bad_data, out_of_memory, diverged, …")
    message = serializers.CharField()
    remedy = serializers.CharField()


class JobSerializer(serializers.ModelSerializer[Job]):
    kind = serializers.ChoiceField(choices=[(kind.name, kind.label) for kind in KINDS.values()])
    created_by = serializers.CharField(source="created_by.username")
    base_model = serializers.CharField(
        source="base_model.name", default=None, allow_null=True, help_text="null for a dataset import."
    )
    state = serializers.ChoiceField(choices=JobState.choices)
    waiting_code = serializers.SerializerMethodField()
    expected_start = serializers.DateTimeField(
        allow_null=True, help_text="The estimated start; null: the job is not queued, or there is no estimate."
    )
    failure = FailureSerializer(allow_null=True, read_only=True)

    class Meta:
        model = Job
        fields = [
            "id",
            "kind",
            "state",
            "desired_state",
            "base_model",
            "created_by",
            "created_at",
            "started_at",
            "finished_at",
            "waiting_reason",
            "waiting_code",
            "expected_start",
            "priority",
            "after",
            "parent",
            "step",
            "total_steps",
            "progress_unit",
            "eta_seconds",
            "failure",
        ]

    @extend_schema_field(serializers.ChoiceField(choices=["", *WAIT_CODES]))
    def get_waiting_code(self, job: Job) -> str:
        return job.waiting_code if job.waiting_reason else ""


class JobDatasetSerializer(serializers.ModelSerializer[JobDataset]):
    id = serializers.CharField(source="dataset_version.dataset_id")
    name = serializers.CharField(source="dataset_version.dataset.name")
    version = serializers.IntegerField(source="dataset_version.number")

    class Meta:
        model = JobDataset
        fields = ["id", "name", "version", "weight"]


class AttemptSerializer(serializers.ModelSerializer[Attempt]):
    worker = serializers.CharField(source="worker.name")
    devices: Any = serializers.SlugRelatedField(slug_field="name", many=True, read_only=True)
    failure = FailureSerializer(allow_null=True, read_only=True)

    class Meta:
        model = Attempt
        fields = [
            "number",
            "state",
            "worker",
            "devices",
            "assigned_at",
            "started_at",
            "finished_at",
            "resumed_from_step",
            "stop_reason",
            "failure",
            "failure_class",  # Both are also in `failure`, and older than it.
            "failure_message",
        ]


class VersionReferenceSerializer(serializers.ModelSerializer[AdapterVersion]):
    """A reference to an adapter version."""

    adapter_id = serializers.CharField()
    name = serializers.CharField(source="adapter.name")
    version = serializers.IntegerField(source="number")

    class Meta:
        model = AdapterVersion
        fields = ["adapter_id", "name", "version"]


class JobDetailSerializer(JobSerializer):
    datasets = JobDatasetSerializer(source="job_datasets", many=True)
    attempts = AttemptSerializer(many=True)
    evaluates = VersionReferenceSerializer(source="adapter_version", allow_null=True)
    published = serializers.SerializerMethodField(
        help_text="The adapter version that the job published; null: none yet."
    )
    compatibility = CompatibilitySerializer(
        many=True, allow_null=True, help_text="Which programs can serve the adapter; null: the job trains no adapter."
    )
    checkpoints: Any = serializers.SlugRelatedField(
        slug_field="step", many=True, read_only=True, help_text="Steps from which the job can be retried."
    )
    spec = serializers.DictField()
    adjustments = serializers.DictField(help_text="Fields of `spec` that the hub has since changed, by path.")
    result = serializers.DictField(allow_null=True, help_text="The engine's final report.")

    class Meta(JobSerializer.Meta):
        fields = [
            *JobSerializer.Meta.fields,
            "datasets",
            "attempts",
            "evaluates",
            "published",
            "compatibility",
            "checkpoints",
            "address",
            "spec",
            "adjustments",
            "memory_bytes_needed",
            "result",
        ]

    @extend_schema_field(VersionReferenceSerializer(allow_null=True))
    def get_published(self, job: Job) -> dict[str, Any] | None:
        publications = list(job.publications.all())
        return dict(VersionReferenceSerializer(publications[0].adapter_version).data) if publications else None


class JobEventSerializer(serializers.ModelSerializer[JobEvent]):
    level = serializers.ChoiceField(choices=["info", "warn", "error"])
    actor: Any = serializers.SlugRelatedField(
        slug_field="username",
        read_only=True,
        allow_null=True,
        help_text="The user who caused it; null: the hub itself.",
    )

    class Meta:
        model = JobEvent
        fields = ["number", "created_at", "level", "message", "actor"]


class MetricPointSerializer(serializers.ModelSerializer[MetricPoint]):
    class Meta:
        model = MetricPoint
        fields = [
            "step",
            "epoch",
            "loss",
            "learning_rate",
            "grad_norm",
            "tokens",
            "supervised_tokens",
            "seconds",
            "peak_memory_bytes",
        ]

    def get_fields(self) -> dict[str, Any]:
        """Add a field for each declared measure; null if the objective does not report it."""
        measures = {
            name: serializers.FloatField(
                source=f"measures.{name}", default=None, allow_null=True, help_text=measure.description
            )
            for name, measure in MEASURES.items()
        }
        return {**super().get_fields(), **measures}


class LogSerializer(serializers.Serializer[Any]):
    attempt = serializers.IntegerField(allow_null=True, help_text="null: the job has not run yet.")
    text = serializers.CharField(help_text="The end of the engine's output.")
