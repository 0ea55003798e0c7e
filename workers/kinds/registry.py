"""What attempts do, by the name of their job's kind. A new kind is a module beside this one and an entry here."""

from __future__ import annotations

from workers.kinds.base_model_import import BaseModelImportWork
from workers.kinds.dataset_import import DatasetImportWork
from workers.kinds.evaluation import EvaluationWork
from workers.kinds.training import TrainingWork
from workers.kinds.work import Work

WORK: dict[str, Work] = {
    work.kind: work for work in (TrainingWork(), EvaluationWork(), BaseModelImportWork(), DatasetImportWork())
}
