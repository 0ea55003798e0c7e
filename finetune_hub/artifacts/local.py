"""The artifact store in a local folder. Uses hard links or else copies, and always renames atomically."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.spec.files import check_relative_path
from finetune_hub.spec.ids import new_id


class LocalStore:
    """Artifact store in a root folder. The key is the path."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, key: str, source: Path) -> None:
        copy_file(source, self._path(key))

    def get(self, key: str, target: Path) -> None:
        try:
            copy_file(self._path(key), target)
        except FileNotFoundError as error:
            raise missing(key) from error

    def open(self, key: str, *, start: int = 0, length: int | None = None) -> BinaryIO:
        try:
            file = self._path(key).open("rb")
        except FileNotFoundError as error:
            raise missing(key) from error
        file.seek(start)
        return file

    def keys(self, prefix: str, *, older_than: timedelta | None = None) -> Iterator[str]:
        return (key for key, _ in self.sizes(prefix, older_than=older_than))

    def sizes(self, prefix: str, *, older_than: timedelta | None = None) -> Iterator[tuple[str, int]]:
        put_before = None if older_than is None else time.time() - older_than.total_seconds()
        for path in sorted(self._path(prefix).rglob("*")):
            try:
                found = path.stat()
            except FileNotFoundError:  # It was deleted after the folder was listed.
                continue
            # Of a file's times, linking only changes ctime.
            if S_ISREG(found.st_mode) and (put_before is None or found.st_ctime < put_before):
                yield path.relative_to(self.root).as_posix(), found.st_size

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def local_folder(self, prefix: str) -> Path | None:
        return self._path(prefix)

    def download_url(self, key: str, *, filename: str, lifetime: timedelta) -> str | None:
        return None

    def _path(self, key: str) -> Path:
        return self.root / check_relative_path(key)


def missing(key: str) -> ArtifactError:
    return ArtifactError(
        f"The artifact store has no {key}.",
        "Check ARTIFACT_URL: the file was deleted, or this is not the store it was written to.",
    )


def copy_file(source: Path, target: Path) -> None:
    """Copy `source` to `target` durably and atomically. Uses a hard link if possible, as stored files never change."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{new_id('part')}")
    try:
        try:
            os.link(source, partial)
        except OSError:
            if not source.is_file():
                raise
            shutil.copyfile(source, partial)
        sync(partial)
        partial.replace(target)
        sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush the file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
