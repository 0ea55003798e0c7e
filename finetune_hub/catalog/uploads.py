"""Resumable uploads of large files in parts.

The parts are appended to one file on this machine, whose size is the upload's progress. Beginning an upload with the
same fingerprint again returns the unfinished one. Uploads are deleted one
day after their last part.
"""

from __future__ import annotations

import fcntl
import shutil
import time
from datetime import timedelta
from io import FileIO
from pathlib import Path

from django.conf import settings
from django.utils import timezone

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.catalog.models import Upload
from finetune_hub.machine.full_disk import disk_full, is_full_disk, require_room
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words

FORGOTTEN_AFTER = timedelta(days=1)
MAX_OPEN = 20
MAX_PART_BYTES = 16 << 20
SHA256_MARK = "sha256:"


def begin_upload(team: Team, user: User, *, file_name: str, size_bytes: int, fingerprint: str) -> Upload:
    """Return the user's upload with this fingerprint, new or unfinished.

    Raises:
        Refusal: `forbidden`, `upload_too_large`, `too_many_uploads`, `disk_full`.
    """
    require_right(Right.UPLOAD_FILE, user, team)
    is_model = file_name.endswith(".gguf")
    limit_bytes = settings.BASE_MODEL_UPLOAD_MAX_BYTES if is_model else settings.DATASET_UPLOAD_MAX_BYTES
    if size_bytes > limit_bytes:
        raise Refusal(
            "upload_too_large",
            f"The upload is larger than {size_in_words(limit_bytes)}.",
            "Ask the people who run the hub to put it into the `models` folder, then import `folder:NAME`."
            if is_model
            else "Split the dataset into several files and name them all in the job.",
            field="size_bytes",
            kind="too_large",
        )
    collect_uploads()
    mine = Upload.objects.filter(team=team, created_by=user)
    known = mine.filter(fingerprint=fingerprint, size_bytes=size_bytes).first()
    if known:
        return known
    if mine.count() >= MAX_OPEN:
        raise Refusal(
            "too_many_uploads",
            f"You have {MAX_OPEN} unfinished uploads.",
            "Finish them, or wait until they are deleted after one day.",
            kind="too_many",
        )
    require_room(uploads_folder(), size_bytes)
    return Upload.objects.create(
        team=team, created_by=user, file_name=file_name, size_bytes=size_bytes, fingerprint=fingerprint
    )


def received_bytes(upload: Upload) -> int:
    """Return how many bytes were received."""
    path = path_of(upload)
    return path.stat().st_size if path.is_file() else 0


def add_part(upload: Upload, user: User, offset: int, data: bytes) -> int:
    """Append the part and return the bytes received. A repeated part has no effect.

    Raises:
        Refusal: `forbidden`, `wrong_offset`, `upload_too_large`, `disk_full`.
    """
    require_right(Right.UPLOAD_FILE, user, upload.team)
    require_room(uploads_folder(), len(data))
    with path_of(upload).open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # Serializes two clients of the same upload.
        received = file.tell()
        if offset + len(data) <= received:
            return received
        if offset != received:
            raise Refusal(
                "wrong_offset",
                f"The upload has {received:,} bytes, but this part begins at {offset:,}.",
                f"Continue at {received}.",
                field="offset",
                kind="conflict",
            )
        if received + len(data) > upload.size_bytes:
            raise Refusal(
                "upload_too_large",
                f"The part exceeds the upload's announced size of {upload.size_bytes:,} bytes.",
                "Begin a new upload with the file's actual size.",
                field="offset",
                kind="too_large",
            )
        _append(file, received, data)
        return received + len(data)


def _append(file: FileIO, received: int, data: bytes) -> None:
    """Append the part completely or not at all.

    Raises:
        Refusal: `disk_full`.
    """
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        file.truncate(received)
        if is_full_disk(error):
            raise disk_full() from error
        raise


def finished_file(upload: Upload, user: User) -> Path:
    """Return the complete file. If it does not match its fingerprint, the upload is deleted.

    Raises:
        Refusal: `forbidden`, `upload_unfinished`, `upload_damaged`.
    """
    require_right(Right.UPLOAD_FILE, user, upload.team)
    received = received_bytes(upload)
    if received < upload.size_bytes:
        raise Refusal(
            "upload_unfinished",
            f"{received:,} of {upload.size_bytes:,} bytes were received.",
            "Send the remaining parts first.",
            field="upload",
            kind="conflict",
        )
    path = path_of(upload)
    digest = upload.fingerprint.removeprefix(SHA256_MARK)
    if digest != upload.fingerprint and digest != sha256_of(path):
        _forget(upload)
        raise Refusal(
            "upload_damaged", "The received file does not match its SHA-256.", "Upload it again.", field="upload"
        )
    return path


def forget_upload(upload: Upload, user: User) -> None:
    """Delete the upload.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.UPLOAD_FILE, user, upload.team)
    _forget(upload)


def collect_uploads() -> None:
    """Delete uploads without a new part for a day, and old files that belong to no upload or running request."""
    old = timezone.now() - FORGOTTEN_AFTER
    for upload in Upload.objects.filter(created_at__lt=old):
        path = path_of(upload)
        if not path.is_file() or _is_old(path):
            _forget(upload)
    folder = uploads_folder()
    kept = set(Upload.objects.values_list("pk", flat=True)) if folder.is_dir() else set()
    for path in [*_entries(folder), *_entries(settings.HOME / "tmp")]:
        if path.name not in kept and _is_old(path):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _is_old(path: Path) -> bool:
    try:
        changed = max(path.lstat().st_mtime, *(inside.lstat().st_mtime for inside in _entries(path)), 0.0)
    except FileNotFoundError:  # It was just deleted.
        return False
    return changed < time.time() - FORGOTTEN_AFTER.total_seconds()


def _forget(upload: Upload) -> None:
    path_of(upload).unlink(missing_ok=True)
    upload.delete()


def path_of(upload: Upload) -> Path:
    return uploads_folder() / upload.pk


def uploads_folder() -> Path:
    folder: Path = settings.HOME / "uploads"
    return folder
