"""Room on the worker's disk: reported with each heartbeat, and asked for before a training starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from finetune_hub.jobs.models import Job, JobKind
from finetune_hub.jobs.planning import shape_of
from finetune_hub.scheduling.disk import run_bytes
from finetune_hub.spec.refusal import Refusal

NO_ROOM_REMEDY = "Free some space below the worker's home, or drain the worker; the job was tried several times."


class NoRoom(Exception):
    """The disk cannot hold what the attempt will write."""


def free_bytes_at(folder: Path) -> int:
    """What may still be written below the folder, which need not exist yet."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(place).free


def require_room(job: Job, folder: Path) -> None:
    """
    Raises:
        NoRoom: the next checkpoints do not fit, so that hours of training would be lost at the first of them.
    """
    if job.kind != JobKind.TRAIN:
        return
    try:
        needed = run_bytes(job.training_spec(), shape_of(job.over))
    except Refusal:
        return  # Nothing is known of the model's layers; the engine will see.
    free = free_bytes_at(folder)
    if needed > free:
        raise NoRoom(
            f"The worker's disk is too full: checkpoints of this job take up to {needed / 1e9:.1f} GB, "
            f"and {free / 1e9:.1f} GB are left."
        )
