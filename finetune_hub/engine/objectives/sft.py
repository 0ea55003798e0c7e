"""Supervised fine-tuning: the cross entropy of the supervised tokens, and of nothing else.

    loss = − Σ log p(token | what stands before it in its row)      summed over supervised tokens

The sum, not the mean: the training loop divides by the supervised tokens of the whole optimizer step, so rows weigh the
same however they are split into micro batches. Only the hidden states that predict a supervised token reach the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.dataset import Batch, TokenRow
from finetune_hub.engine.kernels.document_attention import documents
from finetune_hub.engine.kernels.linear_cross_entropy import linear_cross_entropy
from finetune_hub.engine.model import FastPaths, output_head


def backward(model: PreTrainedModel, paths: FastPaths, rows: list[TokenRow], supervised_tokens: int) -> Tensor:
    """Add the gradient of these rows' share of the step's mean loss.

    Args:
        supervised_tokens: Of the whole optimizer step, all its micro batches together.

    Returns:
        The share, detached and still on the device: reading it would wait for the device.
    """
    share = torch.zeros((), device=model.device)
    for batch_rows in [rows] if paths.packed else [[row] for row in rows]:
        batch = Batch.of(batch_rows, str(model.device))
        loss = summed_loss(model, paths, batch) / supervised_tokens
        loss.backward()  # type: ignore[no-untyped-call]
        share += loss.detach()
    return share


def summed_loss(model: PreTrainedModel, paths: FastPaths, batch: Batch) -> Tensor:
    """The sum over the batch's supervised tokens, in nats."""
    inputs = {"input_ids": batch.input_ids[None], "position_ids": batch.positions[None], "use_cache": False}
    with documents(batch.lengths):
        if paths.plain_head:
            hidden = model.base_model(**inputs).last_hidden_state[0]
            head = output_head(model)
            assert isinstance(head, nn.Linear)
            return linear_cross_entropy(hidden[batch.predictors], head.weight, head.bias, batch.labels)
        logits = model(**inputs, logits_to_keep=batch.predictors).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
