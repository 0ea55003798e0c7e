"""Responses about workers, devices, invitations and quotas."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from finetune_hub.fleet.invitations import WayIn
from finetune_hub.fleet.models import Device, Worker, WorkerRole
from finetune_hub.jobs.team_use import TeamUse


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
    """How an invited worker joins. The passwords are shown only once."""

    name = serializers.CharField(source="worker_name")
    environment = serializers.DictField(
        child=serializers.CharField(), help_text="Environment variables for the worker. Two of them contain a password."
    )
    command = serializers.CharField(help_text="The command that starts the worker with these variables.")
    only_here = serializers.ListField(
        child=serializers.CharField(), help_text="Variables with an address that only works on the hub's own machine."
    )


class QuotaSerializer(serializers.Serializer[TeamUse]):
    team = serializers.CharField(source="team.slug")
    name = serializers.CharField(source="team.name")
    max_devices = serializers.IntegerField(
        source="quota.max_devices", allow_null=True, help_text="Devices at the same time."
    )
    max_hours = serializers.FloatField(
        source="quota.max_hours", allow_null=True, help_text="Device hours per calendar month (UTC)."
    )
    weight = serializers.FloatField(source="quota.weight", help_text="Its share of a busy fleet, relative to others.")
    devices = serializers.IntegerField(help_text="Devices in use now.")
    month_hours = serializers.FloatField(help_text="Device hours used this month.")
    recent_hours = serializers.FloatField(
        help_text="Device hours with a half-life of one week, which decide the fair share."
    )
