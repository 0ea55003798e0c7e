"""The output head and its cross entropy in chunks: the logits of all rows never exist at once.

    zᵢⱼ = hᵢ · wⱼ + bⱼ        lseᵢ = log Σⱼ exp zᵢⱼ        z̄ᵢ = the mean of zᵢ over the vocabulary
    loss = Σᵢ  lseᵢ − (1 − ε) zᵢₜ − ε z̄ᵢ                   t the target of row i, ε label smoothing
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

CHUNK_ROWS = 128


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of a frozen linear head; the gradient is made in the forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (S, H)
        weight: Tensor,  # (V, H), frozen
        bias: Tensor | None,  # (V,), frozen
        targets: Tensor,  # (S,)
        smoothing: float,
    ) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        mean_weight = weight.mean(0, dtype=torch.float32) if smoothing else None
        for start in range(0, hidden.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            chunk_targets = targets[rows, None]
            logits = torch.nn.functional.linear(hidden[rows], weight, bias).float()
            target_logits = logits.gather(1, chunk_targets)
            if smoothing:
                loss += smoothing * (target_logits.sum() - logits.mean(1).sum())
            largest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            total = exponentials.sum(1, keepdim=True)
            loss += (total.log() + largest - target_logits).sum()
            if grad is not None:
                chunk = (exponentials.to(hidden.dtype) @ weight).float().div_(total)
                chunk.sub_(weight[targets[rows]], alpha=1 - smoothing)
                if mean_weight is not None:
                    chunk.sub_(mean_weight, alpha=smoothing)
                grad[rows] = chunk
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_loss.to(grad.dtype), None, None, None, None


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Sum, in nats, of the cross entropy of `hidden Wᵀ + b` with the targets."""
    loss: Tensor = LinearCrossEntropy.apply(hidden, weight, bias, targets, smoothing)  # type: ignore[no-untyped-call]
    return loss
