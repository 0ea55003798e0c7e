"""Response parts that base models and adapters share: files and compatible serving programs."""

from __future__ import annotations

from typing import Any, get_args

from rest_framework import serializers

from finetune_hub.spec.compatibility import Answer, ServingProgram


class FileSerializer(serializers.Serializer[Any]):
    path = serializers.CharField()
    size_bytes = serializers.IntegerField()
    sha256 = serializers.CharField()


class CompatibilitySerializer(serializers.Serializer[Any]):
    """Whether a program can serve an adapter, derived from the adapter's settings."""

    program = serializers.ChoiceField(choices=get_args(ServingProgram))
    answer = serializers.ChoiceField(choices=get_args(Answer), help_text="export: after `finetune-hub export`.")
    export_format = serializers.CharField(allow_null=True, help_text="The format to export it to; null: no export.")
    reason = serializers.CharField(help_text="An explanation for people.")
