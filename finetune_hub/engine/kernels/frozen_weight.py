"""Frozen weights as products need them, (O, I) and dense, whether stored dense, in 4 bits, or in 8 bits.

    NF4, FP4   w = code[4 bits] · absmax of its block of 64          (the absmax itself in 8 bits: double quantisation)
    int8       w = integer · absmax of its row / 127

A dense weight is used directly, or as a copy if the product uses another dtype, see `products`.
A quantised weight is dequantised for one product, into a buffer that the next one overwrites; it is never saved for
the backward, which dequantises it again. bitsandbytes has no such call on the CPU, where the allocator reuses the
memory.
Shape letters:  I in_features,  O out_features.
Source: Dettmers et al., "QLoRA", arXiv:2305.14314, section 3, and "LLM.int8()", arXiv:2208.07339, section 2.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear

_ALLOCATED_ANEW = {"cpu"}  # Devices where bitsandbytes cannot dequantise 4 bits into a given buffer.
_buffers: dict[tuple[torch.device, torch.dtype], Tensor] = {}


def is_quantised(weight: Tensor) -> bool:
    """Return whether bitsandbytes has packed this weight into 4 or 8 bits."""
    return hasattr(weight, "quant_state") or hasattr(weight, "row_absmax")


def shape_of(weight: Tensor) -> tuple[int, int]:
    """Return (O, I), also of a packed weight."""
    state = getattr(weight, "quant_state", None)
    out_features, in_features = weight.shape if state is None else state.shape
    return out_features, in_features


def dtype_of(weight: Tensor) -> torch.dtype:
    """Return the dtype for products with the weight: its own, or the one it was packed from; int8 allows any."""
    state = getattr(weight, "quant_state", None)
    if state is not None:
        packed: torch.dtype = state.dtype
        return packed
    return weight.dtype if weight.dtype.is_floating_point else torch.float32


def dense(
    weight: Tensor,  # (O, I), or packed by bitsandbytes
    dtype: torch.dtype,
) -> Tensor:
    """Return the weight as (O, I). For a quantised one, the next call overwrites it, so use it immediately."""
    state = getattr(weight, "quant_state", None)
    if state is not None:
        from bitsandbytes.functional import dequantize_4bit

        if weight.device.type in _ALLOCATED_ANEW:
            unpacked: Tensor = dequantize_4bit(weight.data, state)
            return unpacked.to(dtype)
        out = _buffer(state.shape, weight.device, state.dtype)
        dequantize_4bit(weight.data, state, out=out)
        return out.to(dtype)
    row_absmax = getattr(weight, "row_absmax", None)
    if row_absmax is not None:
        out = _buffer(weight.shape, weight.device, dtype)
        return torch.mul(weight.data, row_absmax[:, None].float() / 127, out=out)
    return weight.to(dtype)


def project(
    x: Tensor,  # (T, I)
    weight: Tensor,  # (O, I), or packed
    bias: Tensor | None,  # (O,)
) -> Tensor:
    """Return x Wᵀ + b in x's dtype."""
    return linear(x, dense(weight, x.dtype), None if bias is None else bias.to(x.dtype))


def add_projection(
    y: Tensor,  # (T, O)
    x: Tensor,  # (T, I), in y's dtype
    weight: Tensor,  # (O, I), or packed
    bias: Tensor | None,  # (O,)
) -> Tensor:
    """Compute y + x Wᵀ + b in place of y. A small y is not lost, as the sum of products is rounded once, at the end."""
    y.addmm_(x, dense(weight, x.dtype).t())
    return y if bias is None else y.add_(bias)


def _buffer(shape: torch.Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return a view of the buffer for this device and dtype, which is as large as the largest weight so far."""
    count = math.prod(shape)
    buffer = _buffers.get((device, dtype))
    if buffer is None or buffer.numel() < count:
        buffer = _buffers[device, dtype] = torch.empty(count, device=device, dtype=dtype)
    return buffer[:count].view(shape)
