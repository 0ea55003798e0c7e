"""What attempts read, on this machine: base models, adapters and datasets, from the store itself or as copies of it."""

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
    """The base model on this machine: the store's own folder, or this worker's cache."""
    target = base_model_cache() / base_model.revision
    return get_folder(shared_store(settings.ARTIFACT_URL), base_model.artifact_prefix, base_model.manifest(), target)


def base_model_cache() -> Path:
    cache: Path = settings.HOME / "cache" / "base-models"
    return cache


def cached_revisions() -> list[str]:
    """The base models of this worker's cache; none where the store is a folder that it reads from."""
    cache = base_model_cache()
    return sorted(path.name for path in cache.glob("?" * 64))


def adapter_folder(version: AdapterVersion) -> Path:
    """A published adapter on this machine."""
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
    """A file of the store on this machine: the store's own, or a copy in the folder."""
    store = shared_store(settings.ARTIFACT_URL)
    prefix, _, name = key.rpartition("/")
    there = store.local_folder(prefix)
    if there is None:
        store.get(key, folder / name)
    return (there or folder) / name
