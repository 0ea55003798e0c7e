"""Causal attention over documents concatenated in a single sequence, without padding or leaks.

    sequence   a₁ a₂ a₃ | b₁ b₂ | c₁ …       each document attends only to itself

It is registered with transformers as `DOCUMENT_ATTENTION` for every model that uses transformers' attention registry,
and never builds a mask. On a GPU all documents are one call of flash attention if `varlen_attention` can run; otherwise
each document is one causal call of torch's fused attention.
Training on a CPU uses `BlockAttention`, as the backward of torch's fused kernel costs more than a quarter of all matrix
products there (SmolLM2-135M, rows of 190 tokens, bfloat16).
Shape letters:  N query heads,  K key heads,  T tokens of all documents,  D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from finetune_hub.engine.kernels.block_attention import block_attention, sees
from finetune_hub.engine.kernels.prefixed_attention import prefixed_attention
from finetune_hub.engine.kernels.products import product_dtype
from finetune_hub.engine.kernels.varlen_attention import can_run, varlen_attention


class AttentionPath(StrEnum):
    """How attention is computed, worded for users."""

    ONE_CALL = "flash attention, one call for all documents"
    ONE_BY_ONE = "fused attention, one call a document"
    BLOCKS = "batched products over blocks of queries"
    BEHIND_PREFIX = "fused attention behind a prefix, one call a document"


DOCUMENT_ATTENTION = "documents"
_learned_on: set[AttentionPath] = set()
_lengths: tuple[int, ...] = ()
_as_learning = False


class UnsupportedAttention(Exception):
    """The model's attention has a feature that document attention does not support."""


@contextmanager
def documents(lengths: tuple[int, ...]) -> Iterator[None]:
    """Set the lengths of the documents, in order, for forward passes inside."""
    global _lengths
    before, _lengths = _lengths, lengths
    try:
        yield
    finally:
        _lengths = before


@contextmanager
def as_learning() -> Iterator[None]:
    """Make forward passes inside round like training passes even without gradients, so that they can be compared."""
    global _as_learning
    before, _as_learning = _as_learning, True
    try:
        yield
    finally:
        _as_learning = before


def document_lengths() -> tuple[int, ...]:
    """Return the lengths set by `documents`; empty outside of it."""
    return _lengths


def take_learned_on() -> list[AttentionPath]:
    """Return and reset how attention was computed in training passes; empty if by the model's own code."""
    paths = sorted(_learned_on)
    _learned_on.clear()
    return paths


def document_attention(
    module: nn.Module,
    query: Tensor,  # (1, N, T, D)
    key: Tensor,  # (1, K, T, D), or (1, K, P + T, D) behind a prefix
    value: Tensor,  # as key
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Implement transformers' attention interface; return (1, T, N, D)."""
    extras = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if extras or attention_mask is not None or not getattr(module, "is_causal", True):
        raise UnsupportedAttention(", ".join(extras) or "a mask of its own")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bounds = (0, *accumulate(_lengths)) if _lengths else (0, query.shape[2])
    learns = _as_learning or (
        torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    )
    path = choose_path(query, key, value, bounds, dropout, sliding_window, learns=learns)
    if learns:
        _learned_on.add(path)
    if path is AttentionPath.ONE_CALL:
        return varlen_attention(query[0], key[0], value[0], scale, bounds)[None], None
    if path is AttentionPath.BLOCKS:
        return block_attention(query[0], key[0], value[0], scale, bounds, sliding_window)[None], None
    q, k, v = (heads.to(product_dtype(heads)) for heads in (query, key, value))
    if path is AttentionPath.BEHIND_PREFIX:
        output = prefixed_attention(q, k, v, _lengths, dropout, scaling, sliding_window)
    else:
        output = _one_by_one(q, k, v, scale, bounds, dropout, sliding_window)
    return output.to(query.dtype), None


def choose_path(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[int, ...],
    dropout: float,
    window: int | None,
    *,
    learns: bool,
) -> AttentionPath:
    """Choose how to compute attention for these tensors and documents."""
    if key.shape[2] > query.shape[2]:
        return AttentionPath.BEHIND_PREFIX
    if dropout:
        return AttentionPath.ONE_BY_ONE
    if query.device.type == "cpu":
        return AttentionPath.BLOCKS if learns else AttentionPath.ONE_BY_ONE
    windowless = window is None or all(stop - start <= window for start, stop in pairwise(bounds))
    if windowless and can_run(query, key, value):
        return AttentionPath.ONE_CALL
    return AttentionPath.ONE_BY_ONE


def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    bounds: tuple[int, ...],
    dropout: float,
    window: int | None,
) -> Tensor:
    """Run one causal call of torch's fused attention per document: (1, T, N, D)."""
    outputs = []
    for start, stop in pairwise(bounds):
        mask = None
        if window is not None and stop - start > window:
            mask = sees(stop - start, stop - start, window, query.device)
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, start:stop],
                key[:, :, start:stop],
                value[:, :, start:stop],
                attn_mask=mask,
                dropout_p=dropout,
                is_causal=mask is None,
                scale=scale,
                enable_gqa=query.shape[1] != key.shape[1],
            ).transpose(1, 2)
        )
    return torch.cat(outputs, dim=1)


def register(implementation: Callable[..., Any] = document_attention) -> None:
    """Register `DOCUMENT_ATTENTION` with transformers, without a mask function, so that no mask is built."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(DOCUMENT_ATTENTION, implementation)
