"""The output head and its cross entropy in chunks: the logits of all rows never exist at once.

    loss = Σᵢ  log Σⱼ exp(hᵢ · wⱼ + bⱼ)  −  (hᵢ · w_{tᵢ} + b_{tᵢ})          dhᵢ = (softmaxᵢ − onehot(tᵢ)) W

The head is frozen, so the only gradient is that of h, and it is made in the forward while the chunk's logits are there.
Shape letters:  S supervised tokens,  H hidden,  V vocabulary.
Source: the idea of "Liger Kernel", arXiv:2410.10989, section 3.2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ROWS = 256


class LinearCrossEntropy(torch.autograd.Function):
    """Summed cross entropy of a frozen linear head; the gradient is made in the forward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,  # (S, H)
        weight: Tensor,  # (V, H), frozen
        bias: Tensor | None,  # (V,), frozen
        targets: Tensor,  # (S,)
    ) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, hidden.shape[0], CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            chunk_targets = targets[rows, None]
            logits = torch.nn.functional.linear(hidden[rows], weight, bias).float()
            target_logits = logits.gather(1, chunk_targets)
            normaliser = logits.logsumexp(dim=1, keepdim=True)
            loss += (normaliser - target_logits).sum()
            if grad is not None:
                probabilities = logits.sub_(normaliser).exp_()
                probabilities.scatter_add_(1, chunk_targets, torch.full_like(target_logits, -1.0))
                torch.mm(probabilities.to(hidden.dtype), weight, out=grad[rows])
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_loss.to(grad.dtype), None, None, None


def linear_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Sum, in nats, of the cross entropy of `hidden Wᵀ + b` with the targets."""
    loss: Tensor = LinearCrossEntropy.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return loss
