"""A full disk, as a refusal with a message and a remedy."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from finetune_hub.spec.refusal import Refusal


def is_full_disk(error: BaseException) -> bool:
    """Return whether the error is a full disk or an exceeded disk quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full() -> Refusal:
    """Return the refusal of a file that does not fit on the disk."""
    return Refusal(
        "disk_full",
        "The hub's disk has no space for this file. Nothing of it was kept.",
        "Ask whoever runs the hub to free space on the disk with its data folder, then send the file again.",
        kind="no_room",
    )


def require_room(folder: Path, size_bytes: int) -> None:
    """Create the folder if necessary, and check the free space of its disk.

    Raises:
        Refusal: `disk_full`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_full_disk(error):
            raise disk_full() from error
        raise
    if shutil.disk_usage(folder).free < size_bytes:
        raise disk_full()
