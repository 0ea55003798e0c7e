"""Which rows own which files of the artifact store. A file is deleted with its last owner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from django.db.models import Q

from finetune_hub.catalog.dataset_downloads import downloads_of
from finetune_hub.catalog.models import BaseModel, BaseModelFile, DatasetVersion, Deletable
from finetune_hub.jobs.models import Checkpoint
from finetune_hub.registry.models import AdapterFile, AdapterVersion

SUFFIXES = ("", ".original", ".quarantine")  # Of a dataset version's files.
ALIVE = Q(deletion=None)
HAS_FILES = Q(deletion__purged_at=None)
"""It is not deleted, or can still be restored."""


@dataclass(frozen=True, slots=True)
class Owned:
    """A file that a row owns."""

    key: str
    size_bytes: int
    owner: str


def all_owned() -> Iterator[Owned]:
    """Yield every file that must be in the store."""
    of_adapters = AdapterFile.objects.filter(version__deletion__purged_at=None).values_list(
        "version__artifact_prefix", "path", "size_bytes", "version__adapter__name", "version__number"
    )
    for prefix, path, size_bytes, name, number in of_adapters.iterator():
        yield Owned(f"{prefix}/{path}", size_bytes, f"adapter {name} v{number}")
    of_models = BaseModelFile.objects.filter(base_model__deletion__purged_at=None).values_list(
        "base_model__artifact_prefix", "path", "size_bytes", "base_model__name"
    )
    for prefix, path, size_bytes, name in of_models.iterator():
        yield Owned(f"{prefix}/{path}", size_bytes, f"base model {name}")
    for checkpoint in Checkpoint.objects.filter(job__deletion__purged_at=None).iterator():
        for entry in checkpoint.manifest:
            key = f"{checkpoint.artifact_prefix}/{entry['path']}"
            yield Owned(key, int(entry["size_bytes"]), f"checkpoint of {checkpoint}")
    for version in DatasetVersion.objects.with_files().for_list().select_related("dataset").iterator():
        for file in downloads_of(version).values():
            yield Owned(file.key, file.size_bytes, f"dataset {version}")


def keys_of_others(keys: Iterable[str], rows: Sequence[Deletable] = (), *, trash_counts: bool) -> set[str]:
    """Return the keys that rows other than these own.

    Args:
        trash_counts: Include rows in the trash.
    """
    wanted = set(keys)
    folders = {str(parent) for key in wanted for parent in PurePosixPath(key).parents}
    stems = {key.removesuffix(suffix) for key in wanted for suffix in SUFFIXES}
    there = HAS_FILES if trash_counts else ALIVE
    ours = {(type(row), row.pk) for row in rows}
    found: set[str] = set()
    for version in AdapterVersion.objects.filter(there, artifact_prefix__in=folders).prefetch_related("files"):
        if (AdapterVersion, version.pk) not in ours:
            found |= {f"{version.artifact_prefix}/{entry.path}" for entry in version.manifest()}
    for model in BaseModel.objects.filter(there, artifact_prefix__in=folders).prefetch_related("files"):
        if (BaseModel, model.pk) not in ours:
            found |= {f"{model.artifact_prefix}/{entry.path}" for entry in model.manifest()}
    for checkpoint in Checkpoint.objects.filter(artifact_prefix__in=folders).select_related("job__deletion"):
        deletion = checkpoint.job.deletion
        if deletion is None or (trash_counts and deletion.purged_at is None):
            found |= set(checkpoint.keys) if (type(checkpoint.job), checkpoint.job_id) not in ours else set()
    for rows_of_file in DatasetVersion.objects.for_list().filter(there, artifact_key__in=stems):
        if (DatasetVersion, rows_of_file.pk) not in ours:
            found |= set(rows_of_file.keys)
    return found & wanted
