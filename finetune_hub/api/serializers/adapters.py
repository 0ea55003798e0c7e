"""Responses about adapters and their versions."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from finetune_hub.api.serializers.artifacts import CompatibilitySerializer, FileSerializer
from finetune_hub.registry.downloads import artifact_url
from finetune_hub.registry.models import Adapter, AdapterVersion


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
    """A base model, dataset or adapter that an adapter version was made from."""

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
    artifact_url = serializers.SerializerMethodField(help_text="Where the files are in the artifact store.")
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
                assert edge.parent is not None  # A database constraint gives each edge exactly one origin.
                origin = ("adapter", edge.parent.adapter_id, edge.parent.adapter.name, edge.parent.number)
            origins.append(dict(zip(("kind", "id", "name", "version"), origin, strict=True)))
        return origins
