"""The frozen linear layer with a quantised weight, dequantised in the forward and again in the backward.

    y = x Wᵀ + b            dx = ȳ W

It replaces bitsandbytes' layers, which do more than that: on the CPU the 4-bit one repacks its weight when nothing is
trained, and the int8 one rounds its inputs, so base and adapter would not compute the same.
Shape letters:  T tokens,  I in_features,  O out_features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finetune_hub.engine.kernels.frozen_weight import dense, project
from finetune_hub.engine.kernels.products import product_dtype


class FrozenLinearFunction(torch.autograd.Function):
    """y = x Wᵀ + b with a gradient only for x; saves nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (…, I)
        weight: Tensor,  # (O, I), or packed
        bias: Tensor | None,  # (O,)
    ) -> Tensor:
        ctx.weight = weight
        return project(x.to(product_dtype(x)), weight, bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        dtype = product_dtype(grad_y)
        return (grad_y.to(dtype) @ dense(ctx.weight, dtype)).to(grad_y.dtype), None, None


def frozen_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x Wᵀ + b for any leading shape."""
    y: Tensor = FrozenLinearFunction.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class QuantizedLinear(nn.Module):
    """A linear layer with a weight packed by bitsandbytes."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.weight: nn.Parameter = linear.weight
        self.bias: nn.Parameter | None = linear.bias
        if linear.weight.dtype == torch.int8:
            self.weight.row_absmax = linear.weight.SCB
        self.train(linear.training)

    def forward(self, x: Tensor) -> Tensor:  # (…, I) -> (…, O)
        return frozen_linear(x, self.weight, self.bias)


def replace_quantized_layers(model: nn.Module) -> None:
    """Replace each of bitsandbytes' layers by a `QuantizedLinear`. Call it before the first forward."""
    packed = [path for path, module in model.named_modules() if type(module).__name__ in {"Linear4bit", "Linear8bitLt"}]
    for path in packed:
        model.set_submodule(path, QuantizedLinear(model.get_submodule(path)))
