"""Responses about the hub itself: health, usage and notifications."""

from __future__ import annotations

from typing import Any, get_args

from rest_framework import serializers

from finetune_hub.notifications.models import ChatWebhook, Wants
from finetune_hub.operations.health import LEVELS, Finding
from finetune_hub.operations.usage import By, UsageLine


class HealthSerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=["ok"])


class FindingSerializer(serializers.Serializer[Finding]):
    """The health of one part of the hub, and what to do if something is wrong."""

    part = serializers.CharField()
    severity = serializers.ChoiceField(choices=LEVELS, source="level")
    message = serializers.CharField()
    remedy = serializers.CharField(allow_blank=True)


class HealthReportSerializer(serializers.Serializer[Any]):
    severity = serializers.ChoiceField(choices=LEVELS, source="level", help_text="Severity of the worst finding.")
    findings = FindingSerializer(many=True)


class EmailNotificationsSerializer(serializers.Serializer[Any]):
    email = serializers.CharField(allow_blank=True)
    wants = serializers.ChoiceField(choices=Wants.choices)


class ChatWebhookSerializer(serializers.ModelSerializer[ChatWebhook]):
    set_by = serializers.CharField(source="set_by.username")

    class Meta:
        model = ChatWebhook
        fields = ["host", "wants", "set_by", "set_at"]


class UsageLineSerializer(serializers.Serializer[UsageLine]):
    """One line of usage. Only the names that the usage is grouped by are set."""

    team = serializers.CharField(allow_null=True)
    user = serializers.CharField(allow_null=True)
    job = serializers.CharField(allow_null=True)
    kind = serializers.CharField(allow_null=True, help_text="The kind of the job.")
    worker = serializers.CharField(allow_null=True)
    device = serializers.CharField(allow_null=True)
    gpu_seconds = serializers.FloatField()
    cpu_seconds = serializers.FloatField()
    jobs = serializers.IntegerField()
    mean_wait_seconds = serializers.FloatField(
        allow_null=True, help_text="From submission to first start, over the jobs that started in the month."
    )


class UsageSerializer(serializers.Serializer[Any]):
    month = serializers.CharField()
    by = serializers.ChoiceField(choices=get_args(By))
    gpu_seconds = serializers.FloatField(help_text="How long GPUs were held, over all lines.")
    cpu_seconds = serializers.FloatField()
    lines = UsageLineSerializer(many=True)
