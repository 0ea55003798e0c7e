"""The rows of a run: encoded, split into held-out and training rows, with the order of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.engine.dataset import RowOrder, TokenRow, load_dataset
from finetune_hub.engine.objectives.registry import OBJECTIVES
from finetune_hub.engine.train import held_out
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.run import TrainRun


@dataclass(frozen=True)
class TrainingData:
    """A run's training and held-out data."""

    template: ChatTemplate
    rows: list[TokenRow]
    """The training rows, each once."""
    held_out_rows: list[TokenRow]
    order: RowOrder
    """The order in which `rows` are drawn, epoch after epoch, by the datasets' weights."""
    rows_per_step: int
    total_rows: int
    """Rows that the whole run draws."""

    @property
    def total_steps(self) -> int:
        return math.ceil(self.total_rows / self.rows_per_step)

    def of_step(self, rows_drawn: int) -> Sequence[TokenRow]:
        """Return the rows of the step after `rows_drawn` rows; the last step may have fewer."""
        return self.order.rows(rows_drawn, min(rows_drawn + self.rows_per_step, self.total_rows))


def read_data(run: TrainRun, log: EventLog) -> TrainingData:
    """
    Raises:
        InvalidChatTemplate: the base model's template cannot be used.
        BadData: a file's rows cannot be trained on.
    """
    options, evaluation = run.spec.training, run.spec.evaluation
    template = ChatTemplate.from_folder(run.base_model_dir)
    encode = OBJECTIVES[run.spec.objective.type].encode
    loaded = [load_dataset(file, template, options.max_seq_len, log, encode) for file in run.datasets]
    datasets, held_out_rows = held_out.split(loaded, evaluation.fraction, options.seed)
    order = RowOrder(datasets, options.seed)
    rows_per_step = options.micro_batch_size * options.gradient_accumulation_steps
    return TrainingData(
        template,
        rows=[row for dataset in datasets for row in dataset.rows],
        held_out_rows=held_out_rows,
        order=order,
        rows_per_step=rows_per_step,
        total_rows=options.max_steps * rows_per_step
        if options.max_steps
        else math.ceil(order.rows_per_epoch * options.epochs),
    )
