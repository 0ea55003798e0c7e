"""Manifests: an artifact's files with sizes and hashes, to verify what is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.problem import Explained, Failed, FailureClass

CHUNK_BYTES = 1 << 20


class ArtifactError(Explained):
    """An artifact could not be stored or read."""

    failure_class: FailureClass = "infrastructure"

    def __init__(self, message: str, remedy: str = "Check ARTIFACT_URL and the store's disk.") -> None:
        super().__init__(Failed(self.failure_class, message, remedy))


class CorruptArtifact(ArtifactError):
    """A file does not match its manifest."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "Download or publish it again.")


def sha256_of(path: Path) -> str:
    """Return the hex digest of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def entry_of(path: Path, *, below: Path) -> FileEntry:
    """Create the manifest entry of the file."""
    return FileEntry(path=path.relative_to(below).as_posix(), size_bytes=path.stat().st_size, sha256=sha256_of(path))


def manifest_of(folder: Path) -> list[FileEntry]:
    """Return the entries of all files in the folder, sorted by path."""
    return [entry_of(path, below=folder) for path in sorted(folder.rglob("*")) if path.is_file()]


def verify_files(folder: Path, entries: Iterable[FileEntry]) -> None:
    """Compare every file with its entry. Files that are not in the manifest are ignored.

    Raises:
        CorruptArtifact: a file is missing, or its size or hash differs.
    """
    for entry in entries:
        path = folder / entry.path
        if not path.is_file():
            raise CorruptArtifact(f"{entry.path} is missing from {folder.name}.")
        size_bytes = path.stat().st_size
        if size_bytes != entry.size_bytes:
            raise CorruptArtifact(f"{entry.path} has {size_bytes:,} bytes instead of {entry.size_bytes:,}.")
        if sha256_of(path) != entry.sha256:
            raise CorruptArtifact(f"{entry.path} does not match its SHA-256.")


def manifest_digest(entries: Iterable[FileEntry]) -> str:
    """Return a hash of a whole folder: the SHA-256 of its sorted `sha256  path` lines, as `sha256sum` prints them."""
    lines = sorted(f"{entry.sha256}  {entry.path}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
