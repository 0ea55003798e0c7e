"""The output head and its cross entropy in chunks: the logits of all rows never exist at once.

    zᵢⱼ = hᵢ · wⱼ + bⱼ        lseᵢ = log Σⱼ exp zᵢⱼ        z̄ᵢ = the mean of zᵢ over the vocabulary
    lossᵢ = lseᵢ − (1 − ε) zᵢₜ − ε z̄ᵢ                      t the target of row i, ε label smoothing
    dhᵢ  = softmaxᵢ W − (1 − ε) wₜ − ε w̄

The head is frozen, so the only gradient is that of h, and it is made in the forward while the chunk's exponentials
are there. They are divided by their sum behind the product, on [S, H] instead of [S, V]; wₜ is looked up.
Shape letters:  S supervised tokens,  H hidden,  V vocabulary.
Source: the idea of "Liger Kernel", arXiv:2410.10989, section 3.2; Szegedy et al., arXiv:1512.00567, section 7.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.kernels.fused import fused

CHUNK_ROWS = 128


class LinearCrossEntropy(torch.autograd.Function):
    """Cross entropies of a frozen linear head; the gradients are made in the forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (S, H)
        weight: Tensor,  # (V, H), frozen
        bias: Tensor | None,  # (V,), frozen
        targets: Tensor,  # (S,)
        smoothing: float,
    ) -> Tensor:
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        mean_weight = weight.mean(0, dtype=torch.float32) if smoothing else None
        for start in range(0, hidden.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logits = torch.nn.functional.linear(hidden[rows], weight, bias)
            losses[rows], exponentials, total = _chunk_losses(logits, targets[rows], smoothing)
            if grad is not None:
                chunk = (exponentials @ weight).float().div_(total)
                chunk.sub_(weight[targets[rows]], alpha=1 - smoothing)
                if mean_weight is not None:
                    chunk.sub_(mean_weight, alpha=smoothing)
                grad[rows] = chunk
        ctx.save_for_backward(grad)
        return losses

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_losses[:, None].to(grad.dtype), None, None, None, None


@fused
def _chunk_losses(
    logits: Tensor,  # (S, V), used up
    targets: Tensor,  # (S,)
    smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses (S,); exponentials (S, V), in the dtype of the logits; their sums (S, 1). Computed in float32."""
    exact = logits.float()
    target_logits = exact.gather(1, targets[:, None])
    smoothed = smoothing * (target_logits - exact.mean(1, keepdim=True)) if smoothing else 0.0
    largest = exact.amax(1, keepdim=True)
    exponentials = exact.sub_(largest).exp_()
    total = exponentials.sum(1, keepdim=True)
    losses = total.log() + largest - target_logits + smoothed
    return losses[:, 0], exponentials.to(logits.dtype), total


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float = 0.0
) -> Tensor:  # (S,)
    """Cross entropy of each row of `hidden Wᵀ + b` with its target, in nats."""
    losses: Tensor = LinearCrossEntropy.apply(hidden, weight, bias, targets, smoothing)  # type: ignore[no-untyped-call]
    return losses
