"""Responses about base models, their chat templates and aliases."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from finetune_hub.api.serializers.artifacts import FileSerializer
from finetune_hub.catalog.models import BaseModel, BaseModelAlias
from finetune_hub.registry.downloads import artifact_url


class BaseModelSerializer(serializers.ModelSerializer[BaseModel]):
    class Meta:
        model = BaseModel
        fields = ["id", "name", "source", "commit", "access", "license", "state", "revision", "created_at"]


class BaseModelDetailSerializer(BaseModelSerializer):
    files = FileSerializer(many=True)
    artifact_url = serializers.SerializerMethodField(
        help_text="Where the files are in the artifact store; null: not stored yet."
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
    """A chat template that can be set for a base model."""

    name = serializers.CharField()
    summary = serializers.CharField()
    fits = serializers.BooleanField(
        help_text="Whether the model's tokenizer has all of the template's markers as single tokens."
    )


class KnownTemplatesSerializer(serializers.Serializer[Any]):
    data: Any = KnownTemplateSerializer(many=True)


class ImportedBaseModelSerializer(BaseModelSerializer):
    job_id = serializers.CharField(help_text="The job that imports it.")

    class Meta(BaseModelSerializer.Meta):
        fields = [*BaseModelSerializer.Meta.fields, "job_id"]
