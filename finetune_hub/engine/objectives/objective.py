"""The interface of objectives for the training loop, and their shared forward and backward passes.

An objective sums over rows; the loop divides by the weight of the whole optimizer step, so that rows weigh the same
however they are split into micro-batches.
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
    """The context of an objective."""

    model: PreTrainedModel
    paths: FastPaths
    adapter: Adapter | None = None
    """Can be switched off by an objective that compares with the base model."""
    label_smoothing: float = 0.0
    neftune_alpha: float = 0.0
    offload: bool = False
    """Keep activations in host memory until the backward pass."""
    packing: bool = True
    """Run a micro-batch in one pass, if the model keeps its rows isolated."""

    @property
    def packs(self) -> bool:
        return self.packing and self.paths.packed


class Objective(Protocol):
    """The implementation of an objective."""

    @property
    def setting(self) -> Setting: ...

    @property
    def options(self) -> ObjectiveSettings:
        """Its settings in the spec, which name its measures."""
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
        """Return the divisor of these rows' summed loss for their mean."""
        ...

    def documents_of(self, rows: Sequence[TokenRow]) -> Sequence[TokenRow]:
        """Return the documents that pass through the model for these rows, in order."""
        ...

    def summed(self, batch: Batch, *, learns: bool) -> Tensor:  # (1 + measures,)
        """Return the documents' summed loss and measures; label smoothing applies only if it `learns`."""
        ...


def backward(
    objective: Objective, rows: Sequence[TokenRow], weight: float, *, loss_scale: float = 1.0
) -> Tensor:  # (1 + measures,)
    """Add the gradient of these rows' share of the step's mean loss, times `loss_scale`.

    Args:
        weight: Weight of the whole optimizer step with all its micro-batches; infinite for stand-in rows that must
            not count.

    Returns:
        The share and its measures, unscaled, detached and still on the device, as reading them would wait for it.
    """
    setting = objective.setting
    share = torch.zeros(1 + len(objective.options.measures), device=setting.model.device)
    for batch_rows in [rows] if setting.packs else [[row] for row in rows]:
        batch = Batch.of(objective.documents_of(batch_rows), str(setting.model.device))
        saved: AbstractContextManager[object] = save_on_cpu(pin_memory=True) if setting.offload else nullcontext()
        # Also for the backward pass: activation checkpointing reruns layers, and their attention needs the lengths.
        with documents(batch.lengths):
            with saved, noisy_embeddings(setting.model, setting.neftune_alpha, batch.lengths):
                parts = objective.summed(batch, learns=True) / weight
            (parts[0] * loss_scale).backward()  # type: ignore[no-untyped-call]
        share += parts.detach()
    return share


@torch.no_grad()
def measure(objective: Objective, rows: Sequence[TokenRow]) -> Tensor:  # (1 + measures,)
    """Return the rows' summed loss and measures without training."""
    batch = Batch.of(objective.documents_of(rows), str(objective.setting.model.device))
    return objective.summed(batch, learns=False)


def token_losses(
    model: PreTrainedModel, paths: FastPaths, batch: Batch, label_smoothing: float = 0.0
) -> Tensor:  # (S,)
    """Return the cross-entropy of each supervised token, in nats. The head runs only on positions that predict one."""
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
