"""Room on the worker's disk: reported with each heartbeat, and asked for before a training starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_hub.spec.problem import Explained, Failed, FailureClass
from finetune_hub.spec.sizes import size_in_words

NO_ROOM_REMEDY = "Free some space below the worker's home, or drain the worker; the job was tried several times."


class NoRoom(Explained):
    """The disk cannot hold what the attempt will write."""

    failure_class: FailureClass = "infrastructure"

    def __init__(self, message: str) -> None:
        super().__init__(Failed(self.failure_class, message, NO_ROOM_REMEDY))


def free_bytes_at(folder: Path) -> int:
    """What may still be written below the folder, which need not exist yet."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(place).free


def require_room(needed: int | None, folder: Path) -> None:
    """
    Args:
        needed: Bytes that the attempt will write; None: not known.

    Raises:
        NoRoom: they do not fit.
    """
    free = free_bytes_at(folder)
    if needed is not None and needed > free:
        raise NoRoom(
            f"The worker's disk is too full: checkpoints of this job take up to {size_in_words(needed)}, "
            f"and {size_in_words(free)} are left."
        )
