"""Responses about datasets: versions, rows, previews and uploads."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from finetune_hub.catalog.models import Dataset, DatasetVersion, Upload
from finetune_hub.catalog.uploads import received_bytes
from finetune_hub.spec.row_kinds import RowKind


class DatasetVersionSerializer(serializers.ModelSerializer[DatasetVersion]):
    kind = serializers.ChoiceField(choices=[kind.value for kind in RowKind], help_text="The kind of its rows.")
    format = serializers.CharField(help_text="The format that was detected in the upload.")

    class Meta:
        model = DatasetVersion
        fields = [
            "number",
            "sha256",
            "size_bytes",
            "row_count",
            "kind",
            "format",
            "rejected_count",
            "created_at",
            "deleted_at",
        ]


class DatasetVersionDetailSerializer(DatasetVersionSerializer):
    id = serializers.CharField(source="dataset.id")
    name = serializers.CharField(source="dataset.name")
    split_from = serializers.CharField(
        source="parent_reference", allow_null=True, help_text="The version it was split from: `NAME:VERSION`."
    )
    deletion_id = serializers.CharField(
        allow_null=True, help_text="The deletion to restore; null if it is not deleted."
    )
    first_rows = serializers.ListField(source="shown_rows", child=serializers.DictField())

    class Meta(DatasetVersionSerializer.Meta):
        fields = [
            "id",
            "name",
            *DatasetVersionSerializer.Meta.fields,
            "recognised",
            "file_name",
            "original_sha256",
            "original_size_bytes",
            "split_from",
            "origin",
            "source",
            "license",
            "deletion_id",
            "first_rows",
        ]


class UploadSerializer(serializers.ModelSerializer[Upload]):
    received_bytes = serializers.SerializerMethodField(help_text="The `offset` of the next part.")

    class Meta:
        model = Upload
        fields = ["id", "file_name", "size_bytes", "received_bytes"]

    def get_received_bytes(self, upload: Upload) -> int:
        return received_bytes(upload)


class SplitPartsSerializer(serializers.Serializer[Any]):
    """Both parts of a split."""

    train = DatasetVersionDetailSerializer()
    held_out = DatasetVersionDetailSerializer()


class FoundRowSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    document = serializers.DictField(help_text="The row as stored.")


class FoundRowsSerializer(serializers.Serializer[Any]):
    rows = FoundRowSerializer(many=True)
    next = serializers.IntegerField(allow_null=True, help_text="The `after` for the next request; null: no more rows.")


class PreviewTokenSerializer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    text = serializers.CharField(help_text="Empty if the token continues a character of the previous one.")
    supervised = serializers.BooleanField(help_text="Whether the token is supervised.")
    truncated = serializers.BooleanField(help_text="Whether the token is beyond `max_seq_len`.")


class RowPreviewSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    row_count = serializers.IntegerField()
    document = serializers.DictField(help_text="The row as stored.")
    token_count = serializers.IntegerField()
    supervised_count = serializers.IntegerField(help_text="Supervised tokens within `max_seq_len`.")
    truncated_count = serializers.IntegerField(help_text="Tokens beyond `max_seq_len`.")
    tokens = PreviewTokenSerializer(many=True, help_text="The first 2,000 tokens.")


class DatasetSerializer(serializers.ModelSerializer[Dataset]):
    newest_number = serializers.IntegerField(allow_null=True)
    newest_row_count = serializers.IntegerField(allow_null=True)
    newest_size_bytes = serializers.IntegerField(allow_null=True)
    newest_created_at = serializers.DateTimeField(allow_null=True)

    class Meta:
        model = Dataset
        fields = [
            "id",
            "name",
            "created_at",
            "newest_number",
            "newest_row_count",
            "newest_size_bytes",
            "newest_created_at",
        ]


class DatasetDetailSerializer(serializers.ModelSerializer[Dataset]):
    created_by = serializers.CharField(source="created_by.username")
    versions = DatasetVersionSerializer(many=True)

    class Meta:
        model = Dataset
        fields = ["id", "name", "created_at", "created_by", "versions"]


class AddedVersionSerializer(DatasetVersionSerializer):
    """The version that an upload created, or the existing one with the same content."""

    id = serializers.CharField(source="dataset.id")
    name = serializers.CharField(source="dataset.name")

    class Meta:
        model = DatasetVersion
        fields = ["id", "name", *DatasetVersionSerializer.Meta.fields, "recognised"]
