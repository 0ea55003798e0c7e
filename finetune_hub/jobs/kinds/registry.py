"""The kinds of job. To add one, write a module next to this one and add an entry here."""

from __future__ import annotations

from finetune_hub import plugins
from finetune_hub.jobs.kinds.base_model_import import BaseModelImport
from finetune_hub.jobs.kinds.dataset_import import DatasetImport
from finetune_hub.jobs.kinds.evaluation import Evaluation
from finetune_hub.jobs.kinds.kind import KINDS
from finetune_hub.jobs.kinds.training import Training

KINDS.update({kind.name: kind() for kind in (Training, Evaluation, BaseModelImport, DatasetImport)})
plugins.load("jobs")
