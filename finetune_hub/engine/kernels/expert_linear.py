"""The linear layers of a mixture's experts, with or without LoRA, over rows sorted by expert.

    forward    u = x Aₑᵀ            y = u (sBₑ)ᵀ + x Wₑᵀ                              e the expert of the row
    backward   ū = ȳ sBₑ            dBₑ = s · ȳₑᵀ uₑ     dAₑ = ūₑᵀ xₑ     dx = ū Aₑ + ȳ Wₑ

Shape letters:  S pairs of a token and an expert,  E experts,  I in_features,  O out_features,  R rank.
PEFT computes Wₑ + s Bₑ Aₑ for all experts of a layer, keeps it for the backward, and computes its whole gradient. Here
W is neither copied, saved nor differentiated, an expert without rows costs nothing, and the adapter's part is rounded
only once, with the sum, as in `lora_linear`. On a GPU all experts are one call of torch's grouped product if it
supports the dtype and sizes; that rounds twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finetune_hub.engine.kernels.products import product_dtype

_GROUPED_DTYPE = torch.bfloat16
_ALIGNED_BYTES = 16  # Required alignment of every row in a grouped product.
_grouped_mm = getattr(torch.nn.functional, "grouped_mm", None)  # Since torch 2.10.


class ExpertLora(NamedTuple):
    """The adapter of such layers."""

    lora_a: Tensor  # (E, R, I), float32
    lora_b: Tensor  # (E, O, R), float32
    scale: float


class ExpertLinearFunction(torch.autograd.Function):
    """y = x Wₑᵀ + s · x Aₑᵀ Bₑᵀ with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (S, I)
        weight: Tensor,  # (E, O, I), frozen
        ends: Tensor,  # (E,), int32: where each expert's rows end
        lora_a: Tensor,  # (E, R, I)
        lora_b: Tensor,  # (E, O, R)
        scale: float,
    ) -> Tensor:
        dtype = product_dtype(x)
        wide = x.to(dtype)
        u = _products(wide, lora_a.mT.to(dtype), ends)
        y = _products(u, _scaled(lora_b, scale, dtype).mT, ends)
        ctx.weight, ctx.scale = weight, scale
        ctx.save_for_backward(x, u.to(x.dtype), ends, lora_a, lora_b)
        return _add_products(y, wide, weight.mT, ends).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, u, ends, lora_a, lora_b = ctx.saved_tensors
        dtype = product_dtype(grad_y)
        grad = grad_y.to(dtype).contiguous()
        grad_u = _products(grad, _scaled(lora_b, ctx.scale, dtype), ends)
        grad_b = _outer_products(grad, u.to(dtype), ends).to(lora_b.dtype).mul_(ctx.scale)
        grad_a = _outer_products(grad_u, x.to(dtype), ends).to(lora_a.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = _add_products(_products(grad_u, lora_a.to(dtype), ends), grad, ctx.weight, ends).to(grad_y.dtype)
        return grad_x, None, None, grad_a, grad_b, None


class FrozenExpertLinearFunction(torch.autograd.Function):
    """y = x Wₑᵀ with a gradient only for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:  # As above.
        ctx.weight, ctx.ends = weight, ends
        return _products(x.to(product_dtype(x)), weight.mT, ends).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad_y.to(product_dtype(grad_y)).contiguous()
        return _products(grad, ctx.weight, ctx.ends).to(grad_y.dtype), None, None


def expert_linear(
    x: Tensor,  # (S, I), sorted by expert
    weight: Tensor,  # (E, O, I), frozen
    ends: Tensor,  # (E,), int32: where each expert's rows end
    lora: ExpertLora | None,
) -> Tensor:  # (S, O)
    """Apply its expert's layer to each row."""
    y: Tensor
    if lora is None:
        y = FrozenExpertLinearFunction.apply(x, weight, ends)  # type: ignore[no-untyped-call]
    else:
        y = ExpertLinearFunction.apply(x, weight, ends, *lora)  # type: ignore[no-untyped-call]
    return y


def _scaled(lora_b: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """Return sB with contiguous experts: PEFT's layout has the experts innermost, which no product supports."""
    return (lora_b * scale).to(dtype).contiguous()


def _products(
    x: Tensor,  # (S, I)
    weight: Tensor,  # (E, I, O), any dtype
    ends: Tensor,
) -> Tensor:  # (S, O)
    """Return x Wₑ in x's dtype."""
    if _takes_groups(x, weight):
        grouped: Tensor = _grouped_mm(x, weight, offs=ends)  # type: ignore[misc]
        return grouped
    y = x.new_empty(len(x), weight.shape[2])
    for expert, rows in _groups(ends):
        torch.mm(x[rows], weight[expert].to(x.dtype), out=y[rows])
    return y


def _add_products(y: Tensor, x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Compute y + x Wₑ in place of y; shapes as in `_products`."""
    if _takes_groups(x, weight):
        return y.add_(_products(x, weight, ends))
    for expert, rows in _groups(ends):
        y[rows].addmm_(x[rows], weight[expert].to(x.dtype))
    return y


def _outer_products(
    left: Tensor,  # (S, P)
    right: Tensor,  # (S, Q)
    ends: Tensor,
) -> Tensor:  # (E, P, Q)
    """Return the sum of leftᵀ right over each expert's rows; zero for an expert without rows."""
    if _takes_groups(left, right):
        grouped: Tensor = _grouped_mm(left.mT, right, offs=ends)  # type: ignore[misc]
        return grouped
    sums = left.new_zeros(len(ends), left.shape[1], right.shape[1])
    for expert, rows in _groups(ends):
        torch.mm(left[rows].mT, right[rows], out=sums[expert])
    return sums


def _groups(ends: Tensor) -> Iterator[tuple[int, slice]]:
    """Yield each expert with rows, and its rows."""
    for expert, (start, end) in enumerate(pairwise([0, *ends.tolist()])):
        if start < end:
            yield expert, slice(start, end)


def _takes_groups(x: Tensor, other: Tensor) -> bool:
    """Return whether torch's grouped product is allowed for these and faster than one product per expert."""
    aligned = all(size * x.itemsize % _ALIGNED_BYTES == 0 for size in (x.shape[1], *other.shape[1:]))
    return aligned and x.dtype == other.dtype == _GROUPED_DTYPE and _has_grouped_products(x.device)


@cache
def _has_grouped_products(device: torch.device) -> bool:
    """Return whether the device has fast grouped products. On a CPU torch has them, but they are not faster."""
    return _grouped_mm is not None and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
