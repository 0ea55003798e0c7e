"""Causal attention over isolated documents in one call: torch's variable-length flash attention, on NVIDIA GPUs.

    documents   [bounds[i], bounds[i + 1])       bounds are int32 on the device, shared by all layers of a micro-batch

`can_run` checks what the kernel needs: a torch whose `varlen_attn` supports scales, windows and grouped queries, a
16-bit dtype, and a GPU and a head_dim that flash attention supports (`enable_flash_sdp(False)` switches it off). Then
it verifies the kernel for every shape of heads: value and gradients on random inputs must equal those of plain
attention. If any check fails, each document is a separate fused call, see `document_attention`.
Shape letters:  N query heads,  K key heads,  T tokens of all documents,  D head_dim.
Source: Dao, "FlashAttention-2", arXiv:2307.08691, in torch.nn.attention.varlen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn.functional import scaled_dot_product_attention

from finetune_hub.engine.transfer import send

_NEEDED = {"cu_seq_q", "cu_seq_k", "max_q", "max_k", "scale", "window_size", "enable_gqa"}
_CAUSAL = (-1, 0)  # An unlimited window to the left, nothing to the right.
_HEAD_DIM_STEP = 8
_PROOF_LENGTHS = (5, 17, 1, 40)
_ROUNDINGS = 8  # Roundings of the dtype, relative to the norm of the whole tensor.


@cache
def torchs_varlen_attn() -> Callable[..., Any] | None:
    """Return torch's function if the installed torch has it with all required parameters (after 2.10)."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    function: Callable[..., Any] = varlen_attn
    return function if set(inspect.signature(function).parameters) >= _NEEDED else None


def can_run(
    query: Tensor,  # (1, N, T, D)
    key: Tensor,  # (1, K, T, D)
    value: Tensor,  # (1, K, T, D)
) -> bool:
    """Return whether the kernel supports this device, dtype and torch, and passes verification here."""
    if query.device.type != "cuda" or torch.version.cuda is None or torchs_varlen_attn() is None:
        return False
    heads, key_heads, head_dim = query.shape[1], key.shape[1], query.shape[3]
    if head_dim % _HEAD_DIM_STEP or value.shape != key.shape:
        return False
    if not can_use_flash_attention(SDPAParams(query, key, value, None, 0.0, True, heads != key_heads)):
        return False
    return is_proven(query.device, query.dtype, heads, key_heads, head_dim)


def varlen_attention(
    query: Tensor,  # (N, T, D)
    key: Tensor,  # (K, T, D)
    value: Tensor,  # (K, T, D)
    scale: float,
    bounds: tuple[int, ...],
) -> Tensor:
    """Compute isolated causal attention with gradients for query, key and value: (T, N, D)."""
    function = torchs_varlen_attn()
    assert function is not None
    on_device, longest = _bounds_on(query.device, bounds), max(stop - start for start, stop in pairwise(bounds))
    output: Tensor = function(
        *(tensor.transpose(0, 1) for tensor in (query, key, value)),
        on_device,
        on_device,
        longest,
        longest,
        scale=scale,
        window_size=_CAUSAL,
        enable_gqa=len(query) != len(key),
    )
    return output


@lru_cache(maxsize=4)  # Shared by all layers of a micro-batch.
def _bounds_on(device: torch.device, bounds: tuple[int, ...]) -> Tensor:
    return send(torch.tensor(bounds, dtype=torch.int32), device)


@cache
def is_proven(device: torch.device, dtype: torch.dtype, heads: int, key_heads: int, head_dim: int) -> bool:
    """Return whether value and gradients on random inputs equal those of plain float32 attention per document."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(_PROOF_LENGTHS)
    given = [
        torch.randn(count, tokens, head_dim, generator=generator).to(device, dtype)
        for count in (heads, key_heads, key_heads)
    ]
    weights = torch.randn(tokens, heads, head_dim, generator=generator).to(device)
    bounds, scale = (0, *accumulate(_PROOF_LENGTHS)), head_dim**-0.5
    expected = _value_and_gradients(_plain, [tensor.float() for tensor in given], weights, scale, bounds)
    try:
        actual = _value_and_gradients(varlen_attention, given, weights, scale, bounds)
    except (RuntimeError, TypeError):  # A build without the kernel, or with a different interface.
        return False
    tolerance = _ROUNDINGS * torch.finfo(dtype).eps
    return all(
        a.shape == e.shape and bool((a.float() - e).norm() <= tolerance * e.norm())
        for a, e in zip(actual, expected, strict=True)
    )


def _value_and_gradients(
    attention: Callable[..., Tensor], given: list[Tensor], weights: Tensor, *options: Any
) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        inputs = [tensor.clone().requires_grad_() for tensor in given]
        output = attention(*inputs, *options)
        return output.detach(), *torch.autograd.grad((output.float() * weights).sum(), inputs)


def _plain(query: Tensor, key: Tensor, value: Tensor, scale: float, bounds: tuple[int, ...]) -> Tensor:
    """Compute the same as `varlen_attention` with plain attention."""
    outputs = []
    for start, stop in pairwise(bounds):
        q, k, v = (tensor[None, :, start:stop] for tensor in (query, key, value))
        outputs.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True))
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)
