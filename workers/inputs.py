"""The local inputs of attempts: base models, adapters and datasets, in the store itself or as local copies."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from finetune_hub.artifacts.store import get_folder, shared_store
from finetune_hub.catalog.local_files import dataset_file
from finetune_hub.catalog.models import BaseModel
from finetune_hub.jobs.models import Job
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.run import DatasetFile


def base_model_folder(base_model: BaseModel) -> Path:
    """Return the base model's local folder: the store's own, or one in this worker's cache."""
    target = base_model_cache() / base_model.revision
    return get_folder(shared_store(settings.ARTIFACT_URL), base_model.artifact_prefix, base_model.manifest(), target)


def base_model_cache() -> Path:
    cache: Path = settings.HOME / "cache" / "base-models"
    return cache


def cached_revisions() -> list[str]:
    """Return the base models in this worker's cache; empty if it reads the store's folder directly."""
    cache = base_model_cache()
    return sorted(path.name for path in cache.glob("?" * 64))


def adapter_folder(version: AdapterVersion) -> Path:
    """Return the local folder of a published adapter."""
    target = settings.HOME / "cache" / "adapters" / str(version.pk)
    return get_folder(shared_store(settings.ARTIFACT_URL), version.artifact_prefix, version.manifest(), target)


def dataset_files(job: Job) -> list[DatasetFile]:
    return [
        DatasetFile(
            path=dataset_file(job_dataset.dataset_version),
            sha256=job_dataset.dataset_version.sha256,
            weight=job_dataset.weight,
        )
        for job_dataset in job.job_datasets.select_related("dataset_version")
    ]


def stored_file(key: str, folder: Path) -> Path:
    """Return a local path for a file of the store: the store's own, or a copy in the folder."""
    store = shared_store(settings.ARTIFACT_URL)
    prefix, _, name = key.rpartition("/")
    there = store.local_folder(prefix)
    if there is None:
        store.get(key, folder / name)
    return (there or folder) / name
