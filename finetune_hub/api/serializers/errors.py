"""Error responses."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers


class ErrorSerializer(serializers.Serializer[Any]):
    code = serializers.CharField(help_text="A code for programs. docs/api-errors.md lists all codes.")
    message = serializers.CharField()
    remedy = serializers.CharField(help_text="How to fix it.")
    field = serializers.CharField(allow_null=True, help_text="The part of the request that caused the error.")
    details = serializers.ListField(child=serializers.DictField(), help_text="One entry per defect.")


class ErrorBodySerializer(serializers.Serializer[Any]):
    error = ErrorSerializer()
