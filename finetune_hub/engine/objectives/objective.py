"""What the training loop asks of an objective, and what all of them share: the pass through the model, the backward.

An objective sums over rows; the loop divides by the weight of the whole optimizer step, so that rows weigh the same
however they are split into micro batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.rows import Row
from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.dataset import Batch, TokenRow
from finetune_hub.engine.kernels.document_attention import documents
from finetune_hub.engine.kernels.linear_cross_entropy import linear_cross_entropy
from finetune_hub.engine.model import FastPaths, output_head
from finetune_hub.engine.objectives.neftune import noisy_embeddings
from finetune_hub.spec.objectives.objective import Objective as ObjectiveSettings


@dataclass(frozen=True)
class Setting:
    """What an objective computes with."""

    model: PreTrainedModel
    paths: FastPaths
    adapter: Adapter | None = None
    """What can be switched off, for an objective that compares with the base model."""
    label_smoothing: float = 0.0
    neftune_alpha: float = 0.0
    offload: bool = False
    """Keep what the backward pass needs in the host's memory meanwhile."""
    packing: bool = True
    """Rows of a micro batch in one pass, where the model keeps them apart."""

    @property
    def packs(self) -> bool:
        return self.packing and self.paths.packed


class Objective(Protocol):
    """One objective at work."""

    @property
    def setting(self) -> Setting: ...

    @property
    def options(self) -> ObjectiveSettings:
        """Its half in the spec, which names its measures."""
        ...

    @staticmethod
    def encode(template: ChatTemplate, row: Row, max_seq_len: int, name: str) -> TokenRow:
        """
        Raises:
            InvalidChatTemplate: the template cannot be used, or refuses the row.
            BadData: this objective cannot learn from such a row.
        """
        ...

    def weight_of(self, rows: Sequence[TokenRow]) -> int:
        """What the summed loss of these rows is divided by for their mean."""
        ...

    def documents_of(self, rows: Sequence[TokenRow]) -> Sequence[TokenRow]:
        """What passes through the model for these rows, in this order."""
        ...

    def summed(self, batch: Batch, *, learns: bool) -> Tensor:  # (1 + measures,)
        """The summed loss of the documents, and summed measures; label smoothing counts only where it learns."""
        ...


def backward(
    objective: Objective, rows: Sequence[TokenRow], weight: float, *, loss_scale: float = 1.0
) -> Tensor:  # (1 + measures,)
    """Add the gradient of these rows' share of the step's mean loss, times `loss_scale`.

    Args:
        weight: Of the whole optimizer step, all its micro batches together; infinite for rows that stand in for none
            and must not count.

    Returns:
        The share, and its measures, unscaled, detached and still on the device: reading it would wait for the device.
    """
    setting = objective.setting
    share = torch.zeros(1 + len(objective.options.measures), device=setting.model.device)
    for batch_rows in [rows] if setting.packs else [[row] for row in rows]:
        batch = Batch.of(objective.documents_of(batch_rows), str(setting.model.device))
        saved: AbstractContextManager[object] = save_on_cpu(pin_memory=True) if setting.offload else nullcontext()
        # The backward pass too: activation checkpointing runs layers again in it, and their attention asks for lengths.
        with documents(batch.lengths):
            with saved, noisy_embeddings(setting.model, setting.neftune_alpha, batch.lengths):
                parts = objective.summed(batch, learns=True) / weight
            (parts[0] * loss_scale).backward()  # type: ignore[no-untyped-call]
        share += parts.detach()
    return share


@torch.no_grad()
def measure(objective: Objective, rows: Sequence[TokenRow]) -> Tensor:  # (1 + measures,)
    """The rows' summed loss and measures, as they are."""
    batch = Batch.of(objective.documents_of(rows), str(objective.setting.model.device))
    return objective.summed(batch, learns=False)


def token_losses(
    model: PreTrainedModel, paths: FastPaths, batch: Batch, label_smoothing: float = 0.0
) -> Tensor:  # (S,)
    """Cross entropy of each supervised token, in nats. Only what predicts one reaches the head."""
    if not paths.packed and len(batch.lengths) > 1:
        return torch.cat([token_losses(model, paths, alone, label_smoothing) for alone in batch.apart()])
    inputs = {"input_ids": batch.input_ids[None], "position_ids": batch.positions[None], "use_cache": False}
    with documents(batch.lengths):
        if paths.plain_head:
            hidden = model.base_model(**inputs).last_hidden_state[0]
            head = output_head(model)
            assert isinstance(head, nn.Linear)
            return linear_cross_entropy(hidden[batch.predictors], head.weight, head.bias, batch.labels, label_smoothing)
        logits = model(**inputs, logits_to_keep=batch.predictors).logits[0]
    return cross_entropy(logits.float(), batch.labels, reduction="none", label_smoothing=label_smoothing)
