"""Delete a dataset, or one version of it. Hash and lineage stay, so that adapters keep their lineage."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import QuerySet
from django.db.models.functions import Now

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right
from finetune_hub.artifacts.store import ArtifactStore
from finetune_hub.catalog.dataset_downloads import downloads_of
from finetune_hub.catalog.local_files import forget_local_copy
from finetune_hub.catalog.models import Dataset, DatasetVersion, Deletion
from finetune_hub.jobs.models import Job
from finetune_hub.operations.deletion.deletable import DeletableKind, Related, Target, jobs_in_need
from finetune_hub.registry.models import AdapterVersion


class Datasets(DeletableKind[DatasetVersion]):
    name, right, model = "dataset", Right.DELETE_DATASET, DatasetVersion

    def rows(self, target: Target) -> QuerySet[DatasetVersion]:
        versions = DatasetVersion.objects.for_list().filter(dataset_id=target.pk).select_related("dataset")
        versions = versions.order_by("pk")
        return versions if target.number is None else versions.filter(number=target.number)

    def lock(self, target: Target) -> list[DatasetVersion]:
        Dataset.objects.select_for_update().get(pk=target.pk)  # Uploads take the same lock.
        return super().lock(target)

    def team(self, target: Target) -> Team:
        return Team.objects.get(datasets=target.pk)

    def subject(self, target: Target, rows: Sequence[DatasetVersion]) -> str:
        if target.number is not None:
            return f"dataset {rows[0]}"
        return f"dataset {rows[0].dataset.name} ({len(rows)} version{'' if len(rows) == 1 else 's'})"

    def files(self, rows: Sequence[DatasetVersion], store: ArtifactStore) -> dict[str, int]:
        found: dict[str, int] = {}
        for version in rows:
            # The rows and the original upload can be the same file.
            found = {file.key: file.size_bytes for file in downloads_of(version).values()} | found
        return found

    def held_by(self, rows: Sequence[DatasetVersion]) -> list[Related]:
        return jobs_in_need(Job.objects.filter(dataset_versions__in=rows), "reads it")

    def kept(self, rows: Sequence[DatasetVersion]) -> list[Related]:
        trained = AdapterVersion.objects.alive().filter(lineage__dataset_version__in=rows).select_related("adapter")
        parts = DatasetVersion.objects.alive().for_list().filter(parent__in=rows).select_related("dataset")
        return [
            *(Related("adapter", row.adapter_id, str(row), "was trained on it") for row in trained.distinct()),
            *(Related("dataset", row.dataset_id, str(row), "was split from it") for row in parts if row not in rows),
        ]

    def hide(self, rows: Sequence[DatasetVersion], deletion: Deletion) -> None:
        chosen = DatasetVersion.objects.filter(pk__in=[row.pk for row in rows])
        chosen.update(deletion=deletion, deleted_at=Now(), deleted_by=deletion.deleted_by)

    def show(self, deletion: Deletion) -> None:
        self.rows_of(deletion).update(deletion=None, deleted_at=None, deleted_by=None)

    def hold_back(self, deletion: Deletion) -> None:
        datasets = Dataset.objects.filter(versions__deletion=deletion).values("pk")
        list(Dataset.objects.select_for_update().filter(pk__in=datasets).order_by("pk"))

    def forget(self, rows: Sequence[DatasetVersion]) -> None:
        DatasetVersion.objects.filter(pk__in=[row.pk for row in rows]).update(first_rows=[])
        for version in rows:
            forget_local_copy(version)
