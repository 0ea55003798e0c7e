"""Held-out rows: their selection, their loss, sample answers, and the best weights so far.

The loss is the objective's mean over all held-out rows, without dropout, noise or label smoothing, so that runs can be
compared. Measuring draws no random numbers, so a run with evaluations trains exactly like one without.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.dataset import TokenRow, WeightedRows
from finetune_hub.engine.errors import BadData
from finetune_hub.engine.generate import generate
from finetune_hub.engine.model import plain_attention
from finetune_hub.engine.objectives import objective as objectives
from finetune_hub.engine.objectives.objective import Objective
from finetune_hub.engine.train.ranks import Ranks
from finetune_hub.engine.transfer import read
from finetune_hub.spec.events import Sample


def split(datasets: Sequence[WeightedRows], fraction: float, seed: int) -> tuple[list[WeightedRows], list[TokenRow]]:
    """Hold out a share of each dataset, at least one row, drawn with the seed.

    Raises:
        BadData: a dataset has too few rows.
    """
    if not fraction:
        return list(datasets), []
    kept, held_out = [], []
    generator = torch.Generator().manual_seed(seed)
    for dataset in datasets:
        count = max(1, round(fraction * len(dataset.rows)))
        if count >= len(dataset.rows):
            raise BadData(
                f"A dataset of {len(dataset.rows)} rows is too small to hold out rows.",
                "Add rows, or set `evaluation.fraction` to 0.",
            )
        chosen = set(torch.randperm(len(dataset.rows), generator=generator)[:count].tolist())
        held_out += [row for index, row in enumerate(dataset.rows) if index in chosen]
        kept.append(
            WeightedRows([row for index, row in enumerate(dataset.rows) if index not in chosen], dataset.weight)
        )
    return kept, held_out


def measure(objective: Objective, rows: Sequence[TokenRow], micro_batch_size: int, ranks: Ranks) -> float:
    """Return the mean loss of the rows in nats, measured in evaluation mode."""
    model = objective.setting.model
    by_length = sorted(rows, key=lambda row: row.tokens)
    size = micro_batch_size if objective.setting.packs else 1
    batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
    total = torch.zeros((), dtype=torch.float64, device=model.device)
    model.eval()  # type: ignore[no-untyped-call]
    for batch, counts in ranks.share(batches):
        loss = objectives.measure(objective, batch)[0]
        total += loss if counts else 0
    model.train()
    ranks.add_up([total])
    return read(total[None])[0] / objective.weight_of(rows)


def answer(
    model: PreTrainedModel, rows: Sequence[TokenRow], template: ChatTemplate, max_new_tokens: int
) -> list[Sample]:
    """Generate answers to the text before each row's first supervised token."""
    if not rows:
        return []
    starts = [int(row.targets[0]) + 1 for row in rows]
    prompts = [row.input_ids[:start].tolist() for row, start in zip(rows, starts, strict=True)]
    stop_ids = template.stop_token_ids()
    model.eval()  # type: ignore[no-untyped-call]
    with plain_attention(model):
        answers = generate(model, prompts, stop_ids=stop_ids, max_new_tokens=max_new_tokens)
    model.train()
    expected = [_until_gap(row) for row in rows]
    return [
        Sample(
            prompt=template.decode(prompt), expected=template.decode(truth).strip(), answer=template.decode(ids).strip()
        )
        for prompt, truth, ids in zip(prompts, expected, answers, strict=True)
    ]


def _until_gap(row: TokenRow) -> list[int]:
    """Return the row's first contiguous run of supervised tokens."""
    targets = row.targets.tolist()
    run = [target for index, target in enumerate(targets) if target == targets[0] + index]
    return [int(row.input_ids[target + 1]) for target in run]


class BestWeights:
    """The adapter's tensors at the lowest held-out loss so far, on the CPU."""

    def __init__(self) -> None:
        self.loss: float | None = None
        self.step = 0
        self.worse_evaluations = 0
        self.tensors: dict[str, Tensor] = {}

    def offer(self, loss: float, step: int, adapter: Adapter) -> bool:
        """Store the adapter's tensors if its loss is the lowest so far; return whether it was."""
        if self.loss is not None and loss >= self.loss:
            self.worse_evaluations += 1
            return False
        self.loss, self.step, self.worse_evaluations = loss, step, 0
        # `clone`, as `cpu` alone returns the parameter itself on the CPU, which training continues to change.
        self.tensors = {name: tensor.detach().cpu().clone() for name, tensor in adapter.parameters().items()}
        return True

    @torch.no_grad()
    def put_back(self, adapter: Adapter) -> None:
        for name, parameter in adapter.parameters().items():
            parameter.copy_(self.tensors[name])
