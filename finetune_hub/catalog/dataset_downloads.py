"""The files of a dataset version on their way to a client: the rows, the upload as it came, and what was set aside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from django.conf import settings

from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.catalog.tombstones import require_alive
from finetune_hub.data.report import QUARANTINE_FILE, ROWS_FILE
from finetune_hub.spec.refusal import Refusal

ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Download:
    """One file: what it is called on the client's side, and where it lies."""

    name: str
    key: str
    size_bytes: int

    def open(self) -> BinaryIO:
        return shared_store(settings.ARTIFACT_URL).open(self.key)


def downloads_of(version: DatasetVersion) -> dict[str, Download]:
    """What can be downloaded of the version, by the name in the address."""
    stem = f"{version.dataset.name}-v{version.number}"
    files = {ROWS_FILE: Download(f"{stem}.jsonl", version.artifact_key, version.size_bytes)}
    if version.original_key:
        name = PurePath(version.file_name).name or stem
        files[ORIGINAL] = Download(name, version.original_key, version.original_size_bytes or 0)
    if version.quarantine_key:
        size_bytes = version.quarantine_size_bytes
        files[QUARANTINE_FILE] = Download(f"{stem}-quarantine.jsonl", version.quarantine_key, size_bytes)
    return files


def find_download(version: DatasetVersion, name: str) -> Download:
    """
    Raises:
        Refusal: `unknown_file`, `dataset_deleted`.
    """
    require_alive(version)
    files = downloads_of(version)
    if name not in files:
        raise Refusal(
            "unknown_file",
            f"{version} has no file {name!r}.",
            f"Its files are: {', '.join(files)}.",
            field="name",
            kind="missing",
        )
    return files[name]
