"""Serializers of deletions: what one would do, and those that can be restored."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from finetune_hub.catalog.models import Deletion
from finetune_hub.operations.deletion.actions import DELETABLE

RELATED_KINDS = ["job", "adapter", "dataset", "alias"]


class DeletionSerializer(serializers.ModelSerializer[Deletion]):
    kind = serializers.ChoiceField(choices=list(DELETABLE))
    deleted_by = serializers.CharField(source="deleted_by.username")
    restorable_until = serializers.DateTimeField(source="purge_after", help_text="After that, its files are deleted.")

    class Meta:
        model = Deletion
        fields = [
            "id",
            "kind",
            "subject",
            "size_bytes",
            "deleted_by",
            "deleted_at",
            "restorable_until",
            "restored_at",
            "purged_at",
        ]


class RelatedSerializer(serializers.Serializer[Any]):
    """Something that needs the target, or came from it."""

    kind = serializers.ChoiceField(choices=RELATED_KINDS)
    id = serializers.CharField()
    name = serializers.CharField()
    how = serializers.CharField(help_text="How, as a sentence after the name: `is queued and reads it`.")


class OutlookSerializer(serializers.Serializer[Any]):
    """What deleting something would do."""

    kind = serializers.ChoiceField(choices=list(DELETABLE))
    subject = serializers.CharField(help_text="What would be deleted, in words.")
    sentence = serializers.CharField(help_text="How long it can be restored, and what is deleted after that.")
    size_bytes = serializers.IntegerField(help_text="Bytes that are freed in the artifact store after that.")
    file_count = serializers.IntegerField()
    grace_seconds = serializers.IntegerField(help_text="How long it can be restored.")
    held_by = RelatedSerializer(many=True, help_text="Unfinished jobs that block the deletion.")
    stops_working = RelatedSerializer(many=True, help_text="Must be accepted with `accept_dependents`.")
    stays = RelatedSerializer(many=True, help_text="Came from it, and is kept.")
