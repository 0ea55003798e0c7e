"""Local copies of stored files: a base model's tokenizer, and the rows of a dataset version."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from finetune_hub.artifacts.store import get_folder, shared_store
from finetune_hub.catalog.models import BaseModel, DatasetVersion

TOKENIZER_FILES = {
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
}


def tokenizer_folder(base_model: BaseModel) -> Path:
    """Return a local folder with the base model's tokenizer and template, downloaded once and verified."""
    entries = [entry for entry in base_model.manifest() if entry.path in TOKENIZER_FILES]
    target = settings.HOME / "cache" / "tokenizers" / base_model.revision
    return get_folder(shared_store(settings.ARTIFACT_URL), base_model.artifact_prefix, entries, target)


def dataset_file(version: DatasetVersion) -> Path:
    """Return a local copy of the dataset version, or the store's own file if the store is local."""
    store = shared_store(settings.ARTIFACT_URL)
    prefix, name = version.artifact_key.rsplit("/", 1)
    folder = store.local_folder(prefix)
    if folder is not None:
        return folder / name
    target = _copy_of(version)
    if not target.is_file():
        store.get(version.artifact_key, target)
    return target


def forget_local_copy(version: DatasetVersion) -> None:
    """Delete this machine's copy of the rows, if it has one."""
    _copy_of(version).unlink(missing_ok=True)


def _copy_of(version: DatasetVersion) -> Path:
    folder: Path = settings.HOME / "cache" / "datasets"
    return folder / version.artifact_key.rpartition("/")[2]
