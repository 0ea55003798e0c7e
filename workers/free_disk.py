"""Free space on the worker's disk: reported with each heartbeat, and checked before a training starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_hub.spec.problem import Explained, Failed, FailureClass
from finetune_hub.spec.sizes import size_in_words

NO_ROOM_REMEDY = "Several attempts failed. Free some space in the worker's home folder, or drain the worker."


class NoRoom(Explained):
    """The disk does not have enough space for the attempt's files."""

    failure_class: FailureClass = "infrastructure"

    def __init__(self, message: str) -> None:
        super().__init__(Failed(self.failure_class, message, NO_ROOM_REMEDY))


def free_bytes_at(folder: Path) -> int:
    """Return the free bytes on the folder's disk; the folder need not exist yet."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(place).free


def require_room(needed: int | None, folder: Path) -> None:
    """Check that the disk has room.

    Args:
        needed: bytes that the attempt will write; None: unknown.

    Raises:
        NoRoom: it does not.
    """
    free = free_bytes_at(folder)
    if needed is not None and needed > free:
        raise NoRoom(
            f"The worker's disk is too full: checkpoints of this job take up to {size_in_words(needed)}, "
            f"and only {size_in_words(free)} are free."
        )
