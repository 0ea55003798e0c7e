"""RMSNorm with a frozen weight as one autograd node.

    forward    r = 1 / √(mean(x²) + ε)      n = x · r                       y = w ∘ n
    backward   g = w ∘ ȳ                    dx = r · (g − n · mean(g ∘ n))

x is the residual stream, which the model keeps anyway, so the node additionally saves only r; the plain graph keeps
three float32 copies of x on a bfloat16 base. Sums are in float32.
Shape letters:  T tokens,  H hidden.
Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, equation 4.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.kernels.fused import fused


class FrozenRmsNorm(torch.autograd.Function):
    """y = w ∘ x / rms(x), with a gradient only for x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (…, H)
        weight: Tensor,  # (H,), frozen
        epsilon: float,
    ) -> Tensor:
        y, inverse_rms = _normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse_rms)
        return y

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        return _grad_x(grad_y, *ctx.saved_tensors), None, None


@fused
def _normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return y and r."""
    exact = x.to(torch.promote_types(x.dtype, torch.float32))
    inverse_rms = exact.square().mean(-1, keepdim=True).add_(epsilon).rsqrt_()
    return (exact * inverse_rms).to(x.dtype).mul_(weight), inverse_rms


@fused
def _grad_x(grad_y: Tensor, x: Tensor, weight: Tensor, inverse_rms: Tensor) -> Tensor:
    normed = x * inverse_rms  # Promotes to the dtype of inverse_rms.
    grad_normed = (grad_y * weight).to(normed.dtype)
    shared = (grad_normed * normed).mean(-1, keepdim=True)
    return grad_normed.sub_(normed.mul_(shared)).mul_(inverse_rms).to(x.dtype)


def frozen_rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Apply `FrozenRmsNorm` over the last dimension."""
    y: Tensor = FrozenRmsNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return y
