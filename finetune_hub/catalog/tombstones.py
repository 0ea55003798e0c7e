"""Delete a dataset version's files. Its hash and lineage stay, so that adapters keep their lineage."""

from __future__ import annotations

from functools import partial

from django.conf import settings
from django.db import transaction

from finetune_hub.accounts.models import User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.models import Dataset, DatasetVersion
from finetune_hub.spec.refusal import Refusal


@transaction.atomic
def delete_version(version: DatasetVersion, user: User) -> DatasetVersion:
    """Make the version a tombstone and delete its files. Repeating it has no effect.

    Raises:
        Refusal: `forbidden`; `dataset_in_use` if unfinished jobs use it.
    """
    require_right(Right.DELETE_DATASET, user, version.dataset.team)
    version = DatasetVersion.objects.select_for_update(of=("self",)).select_related("dataset").get(pk=version.pk)
    if version.deleted_at:
        return version
    jobs = list(version.jobs.filter(finished_at=None).values_list("pk", flat=True))
    if jobs:
        raise Refusal(
            "dataset_in_use",
            f"{version} is used by unfinished jobs: {', '.join(jobs[:5])}.",
            "Wait until they have ended, or cancel them first.",
            kind="conflict",
        )
    version.bury(user)
    transaction.on_commit(partial(_delete_files, version))
    return version


def require_alive(version: DatasetVersion) -> None:
    """Check that the version is not deleted.

    Raises:
        Refusal: `dataset_deleted`.
    """
    if version.deleted_at:
        raise Refusal(
            "dataset_deleted",
            f"The rows of {version} were deleted on {version.deleted_at:%d %B %Y}.",
            "Upload the same file again to restore the version.",
            kind="gone",
        )


@transaction.atomic
def _delete_files(version: DatasetVersion) -> None:
    """Delete the files, under the lock that uploads of the same rows take before they restore the version."""
    Dataset.objects.select_for_update().get(pk=version.dataset_id)
    if DatasetVersion.objects.alive().filter(pk=version.pk).exists():
        return
    for key in version.keys:
        shared_store(settings.ARTIFACT_URL).delete(key)
