"""Downloads of a dataset version: the rows, the original upload, and the rejected rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.catalog.tombstones import require_alive
from finetune_hub.data.report import QUARANTINE_FILE, ROWS_FILE
from finetune_hub.spec.refusal import Refusal

ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Download:
    """A file to download: its name for the client, and its key in the store."""

    name: str
    key: str
    size_bytes: int
    sha256: str
    """Empty if it is unknown."""


def downloads_of(version: DatasetVersion) -> dict[str, Download]:
    """Return the version's downloads by their name in the URL."""
    stem = f"{version.dataset.name}-v{version.number}"
    files = {ROWS_FILE: Download(f"{stem}.jsonl", version.artifact_key, version.size_bytes, version.sha256)}
    if version.original_key:
        name = PurePath(version.file_name).name or stem
        size_bytes = version.original_size_bytes or 0
        files[ORIGINAL] = Download(name, version.original_key, size_bytes, version.original_sha256)
    if version.quarantine_key:
        size_bytes = version.quarantine_size_bytes
        files[QUARANTINE_FILE] = Download(f"{stem}-quarantine.jsonl", version.quarantine_key, size_bytes, "")
    return files


def find_download(version: DatasetVersion, name: str) -> Download:
    """Return one of the version's downloads.

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
