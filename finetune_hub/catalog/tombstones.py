"""Deleted dataset versions: their rows are in the trash, then purged. Hash and lineage stay."""

from __future__ import annotations

from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.spec.refusal import Refusal


def require_alive(version: DatasetVersion) -> None:
    """Check that the version is not deleted.

    Raises:
        Refusal: `dataset_deleted`.
    """
    if version.deleted_at:
        raise Refusal(
            "dataset_deleted",
            f"The rows of {version} were deleted on {version.deleted_at:%d %B %Y}.",
            "Restore it from the team's trash while it is there, or upload the same file again.",
            kind="gone",
        )
