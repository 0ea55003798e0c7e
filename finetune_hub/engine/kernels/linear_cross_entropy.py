"""The output head and its cross-entropy in chunks, so that the logits of all rows never exist at once.

    zᵢⱼ = hᵢ · wⱼ + bⱼ        lseᵢ = log Σⱼ exp zᵢⱼ        z̄ᵢ = the mean of zᵢ over the vocabulary
    lossᵢ = lseᵢ − (1 − ε) zᵢₜ − ε z̄ᵢ                      t the target of row i, ε label smoothing
    dhᵢ  = softmaxᵢ W − (1 − ε) wₜ − ε w̄

The head is frozen, so only h has a gradient, which is computed in the forward while the chunk's exponentials exist.
They are divided by their sum after the product, on [S, H] instead of [S, V]; wₜ is looked up. All chunks share the same
memory, and the exponentials overwrite the logits. If products are in float32 and the weights are not (`products`), the
weights are copied in slices of the vocabulary.
Shape letters:  S supervised tokens,  H hidden,  V vocabulary.
Source: the idea of "Liger Kernel", arXiv:2410.10989, section 3.2; Szegedy et al., arXiv:1512.00567, section 7.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.kernels.fused import fused
from finetune_hub.engine.kernels.products import product_dtype

CHUNK_NUMBERS = 1 << 24  # Logits per chunk: 64 MiB in float32.
LEAST_ROWS, MOST_ROWS = 64, 256  # Fewer rows make products slow, more do not make them faster.
COPIED_ROWS = 8192  # Rows of the vocabulary per copied slice.


class LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a frozen linear head; the gradients are computed in the forward."""

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
        size = chunk_size(hidden.shape[0], weight.shape[0])
        dtype = product_dtype(hidden)
        slices = torch.split(weight, len(weight) if weight.dtype == dtype else COPIED_ROWS)
        buffer = hidden.new_empty(size, weight.shape[0], dtype=dtype)
        exact_buffer = buffer if buffer.dtype == torch.float32 else torch.empty_like(buffer, dtype=torch.float32)
        for start in range(0, hidden.shape[0], size):
            rows = slice(start, start + size)
            chunk = hidden[rows].to(dtype)
            logits, exact = buffer[: len(chunk)], exact_buffer[: len(chunk)]
            parts = list(zip(slices, torch.split(logits, len(slices[0]), dim=1), strict=True))
            for part, numbers in parts:
                torch.mm(chunk, part.to(dtype).t(), out=numbers)
            losses[rows], total = _chunk_losses(logits, exact, bias, targets[rows], smoothing)
            if grad is not None:
                chunk_grad = torch.zeros_like(chunk)
                for part, numbers in parts:
                    chunk_grad.addmm_(numbers, part.to(dtype))
                chunk_grad = chunk_grad.float().div_(total)
                chunk_grad.sub_(weight[targets[rows]], alpha=1 - smoothing)
                if mean_weight is not None:
                    chunk_grad.sub_(mean_weight, alpha=smoothing)
                grad[rows] = chunk_grad
        ctx.save_for_backward(grad)
        return losses

    @staticmethod
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grad_losses[:, None].to(grad.dtype), None, None, None, None


@fused
def _chunk_losses(
    logits: Tensor,  # (S, V), without the bias; overwritten by their exponentials
    exact: Tensor,  # (S, V), float32, to compute in; may be the logits
    bias: Tensor | None,  # (V,)
    targets: Tensor,  # (S,)
    smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Return the losses (S,) and the sums of the exponentials (S, 1)."""
    exact.copy_(logits)
    if bias is not None:
        exact.add_(bias)
    target_logits = exact.gather(1, targets[:, None])
    smoothed = smoothing * (target_logits - exact.mean(1, keepdim=True)) if smoothing else 0.0
    largest = exact.amax(1, keepdim=True)
    exact.sub_(largest).exp_()
    total = exact.sum(1, keepdim=True)
    losses = total.log() + largest - target_logits + smoothed
    logits.copy_(exact)
    return losses[:, 0], total


def chunk_size(rows: int, vocabulary: int) -> int:
    """Return the rows per chunk, for the fewest chunks of equal size."""
    most = max(LEAST_ROWS, min(MOST_ROWS, CHUNK_NUMBERS // vocabulary))
    chunks = max(1, math.ceil(rows / most))
    return max(1, math.ceil(rows / chunks))


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, smoothing: float = 0.0
) -> Tensor:  # (S,)
    """Return the cross-entropy of each row of `hidden Wᵀ + b` with its target, in nats."""
    losses: Tensor = LinearCrossEntropy.apply(hidden, weight, bias, targets, smoothing)  # type: ignore[no-untyped-call]
    return losses
