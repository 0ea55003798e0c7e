"""What the API answers: one serializer a noun, and a longer one where a single row shows more than a list's line."""

from __future__ import annotations

from typing import Any, get_args

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from finetune_hub.accounts.models import ApiToken, Membership, Role, Scope
from finetune_hub.catalog.models import BaseModel, BaseModelAlias
from finetune_hub.fleet.invitations import WayIn
from finetune_hub.fleet.models import Device, Worker, WorkerRole
from finetune_hub.jobs.models import Attempt, Job, JobDataset, JobEvent, JobState, MetricPoint
from finetune_hub.jobs.team_use import TeamUse
from finetune_hub.notifications.models import ChatWebhook, Wants
from finetune_hub.operations.health import LEVELS, Finding
from finetune_hub.operations.usage import By, UsageLine
from finetune_hub.registry.downloads import artifact_url
from finetune_hub.registry.models import Adapter, AdapterVersion
from finetune_hub.scheduling.placement.reasons import WAIT_CODES
from finetune_hub.spec.compatibility import Answer, Program


class ErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="For programs; docs/api-errors.md lists them.")
    message = serializers.CharField()
    remedy = serializers.CharField(help_text="What to do about it.")
    field = serializers.CharField(allow_null=True, help_text="What part of the request it is about.")
    details = serializers.ListField(child=serializers.DictField(), help_text="One entry for each defect.")


class ErrorBodySerializer(serializers.Serializer[Any]):
    error = ErrorSerializer()


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ok"])


class MeSerializer(serializers.ModelSerializer[ApiToken]):
    """Who a token is, and where it acts."""

    user = serializers.CharField(source="user.username")
    team = serializers.CharField(source="team.slug")
    role = serializers.ChoiceField(choices=Role.choices)
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))

    class Meta:
        model = ApiToken
        fields = ["user", "team", "role", "name", "scopes", "expires_at"]


class TokenSerializer(serializers.ModelSerializer[ApiToken]):
    scopes = serializers.ListField(child=serializers.ChoiceField(choices=Scope.choices))

    class Meta:
        model = ApiToken
        fields = ["id", "name", "scopes", "created_at", "last_used_at", "expires_at"]


class CreatedTokenSerializer(TokenSerializer):
    secret = serializers.CharField(help_text="Shown now and never again.")

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "secret"]


class MemberSerializer(serializers.ModelSerializer[Membership]):
    username = serializers.CharField(source="user.username")
    email = serializers.CharField(source="user.email")
    role = serializers.ChoiceField(choices=Role.choices)
    last_sign_in_at = serializers.DateTimeField(source="user.last_login", allow_null=True)

    class Meta:
        model = Membership
        fields = ["username", "email", "role", "joined_at", "last_sign_in_at"]


class AddedMemberSerializer(MemberSerializer):
    login_link = serializers.CharField(
        allow_null=True, help_text="Hand it over: it signs a new user in once. null: the user can sign in already."
    )

    class Meta(MemberSerializer.Meta):
        fields = [*MemberSerializer.Meta.fields, "login_link"]


class HubTokenSerializer(serializers.Serializer[Any]):
    """Whether the team has a token of the Hugging Face hub. The token itself is never shown."""

    is_set = serializers.BooleanField()
    set_by = serializers.CharField(allow_null=True)
    set_at = serializers.DateTimeField(allow_null=True)


class FileSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField()


class CompatibilitySerializer(serializers.Serializer[Any]):
    """Whether a program can serve an adapter: known from its settings."""

    program = serializers.ChoiceField(choices=get_args(Program))
    answer = serializers.ChoiceField(choices=get_args(Answer), help_text="export: after `finetune-hub export`.")
    export_format = serializers.CharField(allow_null=True, help_text="What to export it as; null: nothing.")
    reason = serializers.CharField(help_text="For people.")


# ---- catalog


class BaseModelSerializer(serializers.ModelSerializer[BaseModel]):
    class Meta:
        model = BaseModel
        fields = ["id", "name", "source", "commit", "access", "license", "state", "revision", "created_at"]


class BaseModelDetailSerializer(BaseModelSerializer):
    files = FileSerializer(many=True)
    artifact_url = serializers.SerializerMethodField(
        help_text="Where the files lie in the artifact store; null: nowhere yet."
    )
    facts = serializers.DictField()

    class Meta(BaseModelSerializer.Meta):
        fields = [*BaseModelSerializer.Meta.fields, "chat_template", "facts", "files", "artifact_url"]

    def get_artifact_url(self, base_model: BaseModel) -> str | None:
        return artifact_url(base_model.artifact_prefix) if base_model.artifact_prefix else None


class AliasSerializer(serializers.ModelSerializer[BaseModelAlias]):
    base_model = serializers.CharField(source="base_model.name")

    class Meta:
        model = BaseModelAlias
        fields = ["alias", "base_model", "created_at"]


class KnownTemplateSerializer(serializers.Serializer[Any]):
    """A chat template that a base model can be given."""

    name = serializers.CharField()
    summary = serializers.CharField()
    fits = serializers.BooleanField(help_text="The model's tokenizer knows all its marks as single tokens.")


class KnownTemplatesSerializer(serializers.Serializer[Any]):
    data: Any = KnownTemplateSerializer(many=True)


class ImportedBaseModelSerializer(BaseModelSerializer):
    job_id = serializers.CharField(help_text="The job that imports it.")

    class Meta(BaseModelSerializer.Meta):
        fields = [*BaseModelSerializer.Meta.fields, "job_id"]


# ---- jobs


class FailureSerializer(serializers.Serializer[Job]):
    failure_class = serializers.CharField(help_text="bad_config, bad_data, out_of_memory, diverged, …")
    message = serializers.CharField(source="failure_message")
    remedy = serializers.CharField(source="failure_remedy")


class JobSerializer(serializers.ModelSerializer[Job]):
    created_by = serializers.CharField(source="created_by.username")
    base_model = serializers.CharField(
        source="base_model.name", default=None, allow_null=True, help_text="null: it imports a dataset."
    )
    state = serializers.ChoiceField(choices=JobState.choices)
    waiting_code = serializers.SerializerMethodField()
    expected_start = serializers.DateTimeField(
        allow_null=True, help_text="When it starts if all goes as expected; null: it does not wait, or nobody knows."
    )
    failure = serializers.SerializerMethodField()

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
            "step",
            "total_steps",
            "progress_unit",
            "eta_seconds",
            "failure",
        ]

    @extend_schema_field(serializers.ChoiceField(choices=["", *WAIT_CODES]))
    def get_waiting_code(self, job: Job) -> str:
        return job.waiting_code if job.waiting_reason else ""

    @extend_schema_field(FailureSerializer(allow_null=True))
    def get_failure(self, job: Job) -> dict[str, Any] | None:
        return dict(FailureSerializer(job).data) if job.failure_class else None


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
            "failure_class",
            "failure_message",
        ]


class VersionReferenceSerializer(serializers.ModelSerializer[AdapterVersion]):
    """Which version of which adapter."""

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
    published = serializers.SerializerMethodField(help_text="The adapter version that the job made; null: none yet.")
    compatibility = CompatibilitySerializer(
        many=True, allow_null=True, help_text="What will be able to serve the adapter; null: the job trains none."
    )
    checkpoints: Any = serializers.SlugRelatedField(
        slug_field="step", many=True, read_only=True, help_text="Steps from which it can be retried."
    )
    spec = serializers.DictField()
    adjustments = serializers.DictField(
        help_text="Fields of `spec` that the service has changed since, by their place."
    )
    result = serializers.DictField(allow_null=True, help_text="What the engine reported at the end.")

    class Meta(JobSerializer.Meta):
        fields = [
            *JobSerializer.Meta.fields,
            "datasets",
            "attempts",
            "evaluates",
            "published",
            "compatibility",
            "checkpoints",
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
        slug_field="username", read_only=True, help_text="Who did it; null: the service."
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
            "reward_margin",
            "reward_accuracy",
        ]


class LogSerializer(serializers.Serializer[Any]):
    attempt = serializers.IntegerField(allow_null=True, help_text="null: the job has not run yet.")
    text = serializers.CharField(help_text="The last part of what the engine printed.")


# ---- registry


class AdapterSerializer(serializers.ModelSerializer[Adapter]):
    base_model = serializers.CharField(source="base_model.name")
    newest_number = serializers.IntegerField()
    newest_created_at = serializers.DateTimeField()
    newest_method = serializers.CharField()
    newest_size_bytes = serializers.IntegerField()

    class Meta:
        model = Adapter
        fields = [
            "id",
            "name",
            "base_model",
            "created_at",
            "newest_number",
            "newest_created_at",
            "newest_method",
            "newest_size_bytes",
        ]


class AdapterVersionSerializer(serializers.ModelSerializer[AdapterVersion]):
    class Meta:
        model = AdapterVersion
        fields = ["number", "method", "step", "size_bytes", "created_at"]


class AdapterDetailSerializer(serializers.ModelSerializer[Adapter]):
    base_model = serializers.CharField(source="base_model.name")
    versions = AdapterVersionSerializer(many=True)

    class Meta:
        model = Adapter
        fields = ["id", "name", "base_model", "created_at", "versions"]


class OriginSerializer(serializers.Serializer[Any]):
    """One thing that an adapter version was made from."""

    kind = serializers.ChoiceField(choices=["base_model", "dataset", "adapter"])
    id = serializers.CharField()
    name = serializers.CharField()
    version = serializers.IntegerField(allow_null=True)


class AdapterVersionDetailSerializer(serializers.ModelSerializer[AdapterVersion]):
    adapter_id = serializers.CharField()
    name = serializers.CharField(source="adapter.name")
    base_model = serializers.CharField(source="adapter.base_model.name")
    job_id = serializers.SerializerMethodField(help_text="The job that published it.")
    files = FileSerializer(many=True)
    lineage = serializers.SerializerMethodField()
    artifact_url = serializers.SerializerMethodField(help_text="Where the files lie in the artifact store.")
    compatibility = CompatibilitySerializer(many=True)
    training_spec = serializers.DictField()
    summary = serializers.DictField()
    verification = serializers.DictField()

    class Meta:
        model = AdapterVersion
        fields = [
            "adapter_id",
            "name",
            "number",
            "method",
            "step",
            "size_bytes",
            "created_at",
            "base_model",
            "base_model_revision",
            "chat_template_sha256",
            "job_id",
            "lineage",
            "compatibility",
            "training_spec",
            "summary",
            "verification",
            "artifact_url",
            "files",
        ]

    def get_job_id(self, version: AdapterVersion) -> str | None:
        publication = getattr(version, "publication", None)
        return publication.job_id if publication else None

    def get_artifact_url(self, version: AdapterVersion) -> str:
        return artifact_url(version.artifact_prefix)

    @extend_schema_field(OriginSerializer(many=True))
    def get_lineage(self, version: AdapterVersion) -> list[dict[str, Any]]:
        origins = []
        for edge in version.lineage.all():
            if edge.base_model:
                origin: tuple[str, str, str, int | None] = (
                    "base_model",
                    edge.base_model.pk,
                    edge.base_model.name,
                    None,
                )
            elif edge.dataset_version:
                dataset = edge.dataset_version.dataset
                origin = ("dataset", dataset.pk, dataset.name, edge.dataset_version.number)
            else:
                assert edge.parent is not None  # The database sees to it that an edge has one origin.
                origin = ("adapter", edge.parent.adapter_id, edge.parent.adapter.name, edge.parent.number)
            origins.append(dict(zip(("kind", "id", "name", "version"), origin, strict=True)))
        return origins


# ---- fleet


class DeviceSerializer(serializers.ModelSerializer[Device]):
    class Meta:
        model = Device
        fields = [
            "index",
            "kind",
            "name",
            "memory_bytes",
            "present",
            "is_shared",
            "driver",
            "temperature_celsius",
            "other_processes",
            "quarantined_at",
            "quarantine_reason",
        ]


class WorkerSerializer(serializers.ModelSerializer[Worker]):
    health = serializers.SerializerMethodField()
    health_reason = serializers.SerializerMethodField()
    devices = DeviceSerializer(many=True)

    class Meta:
        model = Worker
        fields = [
            "name",
            "hostname",
            "version",
            "labels",
            "health",
            "health_reason",
            "drain_requested",
            "heartbeat_at",
            "canary_at",
            "free_bytes",
            "devices",
        ]

    @extend_schema_field(serializers.ChoiceField(choices=["healthy", "draining", "drained", "unhealthy", "offline"]))
    def get_health(self, worker: Worker) -> str:
        return worker.health()[0]

    def get_health_reason(self, worker: Worker) -> str:
        return worker.health()[1]


class InvitationSerializer(serializers.ModelSerializer[WorkerRole]):
    name = serializers.CharField(source="worker_name")

    class Meta:
        model = WorkerRole
        fields = ["name", "created_at"]


class WayInSerializer(serializers.Serializer[WayIn]):
    """How an invited worker joins. The passwords in it are shown now and never again."""

    name = serializers.CharField(source="worker_name")
    environment = serializers.DictField(
        child=serializers.CharField(), help_text="Variables of the worker's process, two with a password."
    )
    command = serializers.CharField(help_text="What starts the worker, with these variables.")
    only_here = serializers.ListField(
        child=serializers.CharField(), help_text="Variables whose address reaches the hub's own machine alone."
    )


class QuotaSerializer(serializers.Serializer[TeamUse]):
    team = serializers.CharField(source="team.slug")
    name = serializers.CharField(source="team.name")
    max_devices = serializers.IntegerField(source="quota.max_devices", allow_null=True, help_text="At a time.")
    max_hours = serializers.FloatField(
        source="quota.max_hours", allow_null=True, help_text="Device hours a calendar month (UTC)."
    )
    weight = serializers.FloatField(source="quota.weight", help_text="Its part of a full fleet, relative to others.")
    devices = serializers.IntegerField(help_text="In use now.")
    month_hours = serializers.FloatField(help_text="Device hours that it has had this month.")
    recent_hours = serializers.FloatField(
        help_text="Device hours, those of a week ago counting half: what fair share goes by."
    )


# ---- operations


class FindingSerializer(serializers.Serializer[Finding]):
    """How one part of the hub is, and what to do when it is not well."""

    part = serializers.CharField()
    severity = serializers.ChoiceField(choices=LEVELS, source="level")
    message = serializers.CharField()
    remedy = serializers.CharField(allow_blank=True)


class HealthReportSerializer(serializers.Serializer[Any]):
    severity = serializers.ChoiceField(choices=LEVELS, source="level", help_text="Of the worst finding.")
    findings = FindingSerializer(many=True)


class EmailNotificationsSerializer(serializers.Serializer[Any]):
    email = serializers.CharField(allow_blank=True)
    wants = serializers.ChoiceField(choices=Wants.choices)


class ChatWebhookSerializer(serializers.ModelSerializer[ChatWebhook]):
    set_by = serializers.CharField(source="set_by.username")

    class Meta:
        model = ChatWebhook
        fields = ["host", "wants", "set_by", "set_at"]


# ---- accounting


class UsageLineSerializer(serializers.Serializer[UsageLine]):
    """One line; of the names only those that the usage is grouped by are set."""

    team = serializers.CharField(allow_null=True)
    user = serializers.CharField(allow_null=True)
    job = serializers.CharField(allow_null=True)
    kind = serializers.CharField(allow_null=True, help_text="Of the job.")
    worker = serializers.CharField(allow_null=True)
    device = serializers.CharField(allow_null=True)
    gpu_seconds = serializers.FloatField()
    cpu_seconds = serializers.FloatField()
    jobs = serializers.IntegerField()
    mean_wait_seconds = serializers.FloatField(
        allow_null=True, help_text="From submission to the first start, of the jobs that started in the month."
    )


class UsageSerializer(serializers.Serializer[Any]):
    month = serializers.CharField()
    by = serializers.ChoiceField(choices=get_args(By))
    gpu_seconds = serializers.FloatField(help_text="Of all lines: how long GPUs were held.")
    cpu_seconds = serializers.FloatField()
    lines = UsageLineSerializer(many=True)
