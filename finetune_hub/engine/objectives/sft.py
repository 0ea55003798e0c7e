"""Supervised fine-tuning: the cross entropy of the supervised tokens, and of nothing else.

    loss = − Σ log p(token | what stands before it in its row)      summed over supervised tokens

The sum, not the mean: the training loop divides by the supervised tokens of the whole optimizer step, so rows weigh the
same however they are split into micro batches. Only the hidden states that predict a supervised token reach the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from transformers import PreTrainedModel

from finetune_hub.engine.dataset import Batch, TokenRow
from finetune_hub.engine.kernels.document_attention import documents
from finetune_hub.engine.kernels.linear_cross_entropy import linear_cross_entropy
from finetune_hub.engine.model import FastPaths, output_head
from finetune_hub.engine.neftune import noisy_embeddings


def backward(
    model: PreTrainedModel,
    paths: FastPaths,
    rows: Sequence[TokenRow],
    supervised_tokens: float,
    *,
    label_smoothing: float = 0.0,
    neftune_alpha: float = 0.0,
    loss_scale: float = 1.0,
    offload: bool = False,
) -> Tensor:
    """Add the gradient of these rows' share of the step's mean loss, times `loss_scale`.

    Args:
        supervised_tokens: Of the whole optimizer step, all its micro batches together; infinite for rows that stand in
            for none and must not count.
        offload: Keep what the backward pass needs in the host's memory meanwhile.

    Returns:
        The share, unscaled, detached and still on the device: reading it would wait for the device.
    """
    share = torch.zeros((), device=model.device)
    for batch_rows in [rows] if paths.packed else [[row] for row in rows]:
        batch = Batch.of(batch_rows, str(model.device))
        saved: AbstractContextManager[object] = save_on_cpu(pin_memory=True) if offload else nullcontext()
        # The backward pass too: activation checkpointing runs layers again in it, and their attention asks for lengths.
        with documents(batch.lengths):
            with saved, noisy_embeddings(model, neftune_alpha, batch.lengths):
                loss = summed_loss(model, paths, batch, label_smoothing) / supervised_tokens
            (loss * loss_scale).backward()  # type: ignore[no-untyped-call]
        share += loss.detach()
    return share


def summed_loss(model: PreTrainedModel, paths: FastPaths, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """The sum over the batch's supervised tokens, in nats."""
    inputs = {"input_ids": batch.input_ids[None], "position_ids": batch.positions[None], "use_cache": False}
    with documents(batch.lengths):
        if paths.plain_head:
            hidden = model.base_model(**inputs).last_hidden_state[0]
            head = output_head(model)
            assert isinstance(head, nn.Linear)
            return linear_cross_entropy(hidden[batch.predictors], head.weight, head.bias, batch.labels, label_smoothing)
        logits = model(**inputs, logits_to_keep=batch.predictors).logits[0]
    return torch.nn.functional.cross_entropy(
        logits.float(), batch.labels, reduction="sum", label_smoothing=label_smoothing
    )
