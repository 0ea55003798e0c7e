"""Rotary position embedding as one autograd node: with `fused`, one pass over the heads forward and one backward.

    forward    y = x ∘ cos + R(x) ∘ sin            R(x₁, x₂) = (−x₂, x₁), the halves of each head
    backward   dx = ȳ ∘ cos + Rᵀ(ȳ ∘ sin)          Rᵀ(z₁, z₂) = (z₂, −z₁)

Shape letters:  B batch,  N heads,  T tokens,  D head_dim.
Source: Su et al., "RoFormer", arXiv:2104.09864, equation 34, with halves instead of pairs, as models store them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.kernels.fused import fused


class RotaryEmbedding(torch.autograd.Function):
    """y = x ∘ cos + R(x) ∘ sin, with a gradient only for x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (B, N, T, D)
        cos: Tensor,  # (B, 1, T, D)
        sin: Tensor,  # (B, 1, T, D)
    ) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.dtype = x.dtype
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return _rotated_back(grad_y, *ctx.saved_tensors).to(ctx.dtype), None, None


@fused
def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


@fused
def _rotated_back(grad_y: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = (grad_y * sin).chunk(2, dim=-1)
    return grad_y * cos + torch.cat([second, -first], dim=-1)


def apply_rotary_pos_emb(
    q: Tensor,  # (B, N, T, D), or (B, T, N, D)
    k: Tensor,  # the same with the key heads
    cos: Tensor,  # (B, T, D)
    sin: Tensor,  # (B, T, D)
    unsqueeze_dim: int = 1,  # Where the heads are.
) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys, as transformers' function of the same name."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    rotated_q: Tensor = RotaryEmbedding.apply(q, cos, sin)  # type: ignore[no-untyped-call]
    rotated_k: Tensor = RotaryEmbedding.apply(k, cos, sin)  # type: ignore[no-untyped-call]
    return rotated_q, rotated_k
