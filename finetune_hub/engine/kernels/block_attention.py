"""Causal attention on a CPU, forward and backward as batched matrix products over blocks of queries.

    forward    P = softmax(s · Q Kᵀ)    O = P V
    backward   dV = Pᵀ dO    dP = dO Vᵀ    dS = P ∘ (dP − rowsum(P ∘ dP))    dQ = s · dS K    dK = s · dSᵀ Q

A block of B queries meets the keys up to its own end, so memory grows with B · T, never with T², and half of the causal
square is never computed. P is made anew in the backward. Query heads that share a key head lie in one product.
Scores are products in float32, also on a bfloat16 base: rounding them to 8 bits would shift probabilities by percents.
Shape letters:  N query heads,  K key heads,  G = N / K,  T tokens,  B queries of a block,  L its keys,  D head_dim.
Source: Dao et al., "FlashAttention", arXiv:2205.14135, appendix B, without the tiling over keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK_QUERIES = 128


class Block(NamedTuple):
    """Queries [start, stop) and the keys [first_key, stop) that they may see."""

    first_key: int
    start: int
    stop: int


class BlockAttention(torch.autograd.Function):
    """Isolated causal attention with gradients for query, key and value."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,  # (N, T, D)
        key: Tensor,  # (K, T, D)
        value: Tensor,  # (K, T, D)
        scale: float,
        bounds: Sequence[int],
        window: int | None,
    ) -> Tensor:
        output = query.new_empty(query.shape[1], query.shape[0], value.shape[2])  # (T, N, D)
        for block in blocks(bounds, window):
            probabilities = _probabilities(query, key, scale, block, window).to(value.dtype)
            heads_output = torch.bmm(probabilities, value[:, block.first_key : block.stop])
            output[block.start : block.stop] = _ungrouped(heads_output, query.shape[0]).transpose(0, 1)
        ctx.save_for_backward(query, key, value)
        ctx.scale, ctx.bounds, ctx.window = scale, bounds, window
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # (T, N, D)
        query, key, value = ctx.saved_tensors
        heads, groups = query.shape[0], query.shape[0] // key.shape[0]
        # In the layout that projections have, so that their backward finds (T, N · D) without a copy.
        grad_query = query.new_empty(query.shape[1], heads, query.shape[2]).transpose(0, 1)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for block in blocks(ctx.bounds, ctx.window):
            queries, keys = slice(block.start, block.stop), slice(block.first_key, block.stop)
            probabilities = _probabilities(query, key, ctx.scale, block, ctx.window)
            grad_heads = _grouped(grad_output[queries].transpose(0, 1), groups)
            grad_value[:, keys] += torch.bmm(probabilities.to(value.dtype).transpose(1, 2), grad_heads)
            grad_probabilities = torch.bmm(grad_heads, value[:, keys].transpose(1, 2)).to(probabilities.dtype)
            grad_scores = torch.ops.aten._softmax_backward_data(
                grad_probabilities, probabilities, -1, probabilities.dtype
            )
            grad_scores = grad_scores.mul_(ctx.scale).to(query.dtype)
            grad_query[:, queries] = _ungrouped(torch.bmm(grad_scores, key[:, keys]), heads)
            grad_key[:, keys] += torch.bmm(grad_scores.transpose(1, 2), _grouped(query[:, queries], groups))
        return grad_query, grad_key, grad_value, None, None, None


def block_attention(
    query: Tensor,  # (N, T, D)
    key: Tensor,  # (K, T, D)
    value: Tensor,  # (K, T, D)
    scale: float,
    bounds: Sequence[int],
    window: int | None = None,
) -> Tensor:
    """Attention of each document [bounds[i], bounds[i + 1]) to itself; gives (T, N, D)."""
    output: Tensor = BlockAttention.apply(query, key, value, scale, bounds, window)  # type: ignore[no-untyped-call]
    return output


def blocks(bounds: Sequence[int], window: int | None) -> Iterator[Block]:
    """Every document in blocks of queries, with the first key that any query of the block sees."""
    for begin, end in pairwise(bounds):
        for start in range(begin, end, BLOCK_QUERIES):
            first_key = begin if window is None else max(begin, start - window + 1)
            yield Block(first_key, start, min(start + BLOCK_QUERIES, end))


def _probabilities(query: Tensor, key: Tensor, scale: float, block: Block, window: int | None) -> Tensor:
    """(K, G · B, L) in float32 or wider: softmax of the block's scores over the keys that each query sees."""
    queries = block.stop - block.start
    keys = key[:, block.first_key : block.stop]
    exact = torch.promote_types(query.dtype, torch.float32)
    grouped = _grouped(query[:, block.start : block.stop], query.shape[0] // key.shape[0]).to(exact)
    scores = torch.bmm(grouped.mul(scale), keys.to(exact).transpose(1, 2))
    by_head = scores.view(-1, queries, keys.shape[1])
    if window is None:  # Only the square at the end has keys that lie behind a query.
        by_head[:, :, -queries:] += _bias(queries, queries, None, scores.dtype)
    else:
        by_head += _bias(queries, keys.shape[1], window, scores.dtype)
    return torch.softmax(scores, dim=-1)


def _grouped(heads: Tensor, groups: int) -> Tensor:
    """(N, B, D) -> (K, G · B, D)."""
    return heads.reshape(heads.shape[0] // groups, groups * heads.shape[1], heads.shape[2])


def _ungrouped(grouped: Tensor, heads: int) -> Tensor:
    """(K, G · B, D) -> (N, B, D)."""
    return grouped.view(heads, -1, grouped.shape[2])


@cache
def _bias(queries: int, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """(B, L): 0 where a query sees a key, -inf elsewhere."""
    seen = sees(queries, keys, window, torch.device("cpu"))
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_(~seen, -torch.inf)


def sees(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(queries, keys), true where a query sees a key: itself and the `window - 1` before it. Both end at one token."""
    query = torch.arange(keys - queries, keys, device=device)
    distance = query[:, None] - torch.arange(keys, device=device)
    return (distance >= 0) & (distance < (window or keys))
