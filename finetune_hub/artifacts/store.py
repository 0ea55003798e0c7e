"""The artifact store: files under keys such as `jobs/ftjob-…/1/adapter/model.safetensors`, in a folder or in S3.

Keys must pass `check_relative_path`. A key is written once and atomically, so readers never see a partial file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

from finetune_hub.artifacts.manifest import ArtifactError, verify_files
from finetune_hub.spec.files import FileEntry


class ArtifactStore(Protocol):
    """A store of artifacts. Errors are `ArtifactError`."""

    def put(self, key: str, source: Path) -> None:
        """Store the file under the key. It is durable when this returns."""

    def get(self, key: str, target: Path) -> None:
        """Write the bytes to a local file, atomically."""

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
        """Open the file for streaming to a client: from byte `start` on, of which `length` are read; None: all."""

    def keys(self, prefix: str, *, older_than: timedelta | None = None) -> Iterator[str]:
        """Yield all keys under `prefix/`, sorted; with `older_than`, only older ones."""

    def sizes(self, prefix: str, *, older_than: timedelta | None = None) -> Iterator[tuple[str, int]]:
        """Yield the same keys with the sizes of their files in bytes."""

    def delete(self, key: str) -> None:
        """Delete the key if it exists."""

    def local_folder(self, prefix: str) -> Path | None:
        """Return the folder if the store is on this machine, so that large files are read in place."""

    def download_url(self, key: str, *, filename: str, lifetime: timedelta) -> str | None:
        """Return a temporary public URL of the file; None if the store does not support this."""


def open_store(url: str) -> ArtifactStore:
    """Open the store of an `ARTIFACT_URL`: `file:///folder` or `s3://bucket/prefix?endpoint=http://…`.

    Raises:
        ArtifactError: the URL is not that of a store.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        from finetune_hub.artifacts.local import LocalStore

        return LocalStore(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        from finetune_hub.artifacts.s3 import S3Store

        return S3Store.from_url(url)
    raise ArtifactError(
        f"ARTIFACT_URL={url!r} is not the URL of a store.",
        "Use file:///absolute/folder or s3://bucket/prefix?endpoint=https://host.",
    )


shared_store = lru_cache(maxsize=4)(open_store)


def put_folder(store: ArtifactStore, prefix: str, folder: Path, entries: Iterable[FileEntry]) -> None:
    """Store the listed files of a folder under `prefix/`."""
    for entry in entries:
        store.put(f"{prefix}/{entry.path}", folder / entry.path)


def get_folder(store: ArtifactStore, prefix: str, entries: Iterable[FileEntry], target: Path) -> Path:
    """Return a local folder with the listed files, verified: the store's own if it is local, or a copy in `target`.

    Raises:
        CorruptArtifact: a file does not match its entry.
    """
    entries = list(entries)
    folder = store.local_folder(prefix)
    if folder is None:
        folder = target
        for entry in entries:
            if not (target / entry.path).is_file():
                store.get(f"{prefix}/{entry.path}", target / entry.path)
    verify_files(folder, entries)
    return folder
