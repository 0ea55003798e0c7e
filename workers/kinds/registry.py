"""What attempts do, by the name of their job's kind. To add a kind, add a module next to this one and an entry here."""

from __future__ import annotations

from finetune_hub import plugins
from workers.kinds.base_model_import import BaseModelImportWork
from workers.kinds.dataset_import import DatasetImportWork
from workers.kinds.evaluation import EvaluationWork
from workers.kinds.training import TrainingWork
from workers.kinds.work import WORK, Work

_OURS: tuple[Work, ...] = (TrainingWork(), EvaluationWork(), BaseModelImportWork(), DatasetImportWork())
WORK.update({work.kind: work for work in _OURS})
plugins.load("workers")


def work_of(kind: str) -> Work:
    """Return what an attempt of the kind does."""
    return WORK[kind]
