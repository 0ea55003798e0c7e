"""A full disk, as a refusal in words: what was being written is given up, and nothing of it is kept."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from finetune_hub.spec.refusal import Refusal


def is_full_disk(error: BaseException) -> bool:
    """Whether the operating system said that there is no room, on the disk or within a quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full() -> Refusal:
    """The refusal of what has no room."""
    return Refusal(
        "disk_full",
        "The hub's disk has no room for this file; nothing of it was kept.",
        "Ask whoever runs the hub to free space on the disk of its data folder, then send it again.",
        kind="no_room",
    )


def require_room(folder: Path, size_bytes: int) -> None:
    """Make the folder where it is missing, and look whether so much fits on its disk.

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
