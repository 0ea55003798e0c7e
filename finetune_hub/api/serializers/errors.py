"""What the API answers when it refuses."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers


class ErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="For programs; docs/api-errors.md lists them.")
    message = serializers.CharField()
    remedy = serializers.CharField(help_text="What to do about it.")
    field = serializers.CharField(allow_null=True, help_text="What part of the request it is about.")
    details = serializers.ListField(child=serializers.DictField(), help_text="One entry for each defect.")


class ErrorBodySerializer(serializers.Serializer[Any]):
    error = ErrorSerializer()
