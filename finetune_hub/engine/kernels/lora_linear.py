"""The LoRA linear layer as one autograd node, with the fewest matrix products and nothing saved twice.

    forward    u  = x̃ Aᵀ                 y  = u (sB)ᵀ + x Wᵀ + b
    backward   ū  = ȳ sB                  dB = s · ȳᵀ u       dA = ūᵀ x̃       dx = ū A + ȳ W

Shape letters:  T tokens,  I in_features,  O out_features,  R rank;  x̃ is x, or x after dropout.
The thin product comes first and the large one is added to it. In 16 bits the other order loses much of what was
learned: early contributions are often smaller than half a rounding of x Wᵀ, so adding one to the rounded value changes
nothing.
PEFT's graph of separate nodes saves x twice when dropout is off and multiplies all of [T, O] by s. Here s is multiplied
into B, dx is one buffer, and W gets no gradient. W is kept by reference instead of saved, so that the backward can
dequantise it again and offloading saved tensors never moves it.
Source: Hu et al., "LoRA", arXiv:2106.09685, equation 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.kernels.frozen_weight import add_projection, dense
from finetune_hub.engine.kernels.products import product_dtype


class LoraLinearFunction(torch.autograd.Function):
    """y = x Wᵀ + b + s · x̃ Aᵀ Bᵀ with gradients for x, x̃, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (T, I)
        x_dropped: Tensor | None,  # (T, I); None: the same as x
        weight: Tensor,  # (O, I), frozen or quantised
        bias: Tensor | None,  # (O,), frozen
        lora_a: Tensor,  # (R, I), float32
        lora_b: Tensor,  # (O, R), float32
        scale: float,
    ) -> Tensor:
        dtype = product_dtype(x)
        wide = x.to(dtype)
        u = (wide if x_dropped is None else x_dropped.to(dtype)) @ lora_a.to(dtype).t()
        y = add_projection(u @ (lora_b * scale).to(dtype).t(), wide, weight, bias)
        ctx.scale, ctx.weight = scale, weight
        ctx.has_dropout = x_dropped is not None
        ctx.save_for_backward(x if x_dropped is None else x_dropped, u.to(x.dtype), lora_a, lora_b)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, u, lora_a, lora_b = ctx.saved_tensors
        dtype = product_dtype(grad_y)
        grad = grad_y.to(dtype)
        grad_u = grad @ (lora_b * ctx.scale).to(dtype)
        grad_b = (grad.t() @ u.to(dtype)).to(lora_b.dtype).mul_(ctx.scale)
        grad_a = (grad_u.t() @ x.to(dtype)).to(lora_a.dtype)
        grad_x = grad_x_dropped = None
        if ctx.needs_input_grad[0] and not ctx.has_dropout:
            grad_x = (grad_u @ lora_a.to(dtype)).addmm_(grad, dense(ctx.weight, dtype)).to(grad_y.dtype)
        elif ctx.needs_input_grad[0]:
            grad_x = (grad @ dense(ctx.weight, dtype)).to(grad_y.dtype)
        if ctx.has_dropout and ctx.needs_input_grad[1]:
            grad_x_dropped = (grad_u @ lora_a.to(dtype)).to(grad_y.dtype)
        return grad_x, grad_x_dropped, None, None, grad_a, grad_b, None


def lora_linear(
    x: Tensor,  # (…, I)
    x_dropped: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scale: float,
) -> Tensor:
    """Apply `LoraLinearFunction` for any leading shape."""
    flat = x.reshape(-1, x.shape[-1])
    flat_dropped = None if x_dropped is None else x_dropped.reshape(-1, x.shape[-1])
    y: Tensor = LoraLinearFunction.apply(  # type: ignore[no-untyped-call]
        flat, flat_dropped, weight, bias, lora_a, lora_b, scale
    )
    return y.view(*x.shape[:-1], y.shape[-1])
