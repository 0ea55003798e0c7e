"""Causal attention on a CPU: forward and backward as batched matrix products over blocks of queries.

    forward    P = softmax(s · Q Kᵀ)    O = P V
    backward   dV = Pᵀ dO    dP = dO Vᵀ    dS = P ∘ (dP − rowsum(P ∘ dP))    dQ = s · dS K    dK = s · dSᵀ Q

A block of B queries attends to the keys up to its own end, so memory grows with B · T instead of T², and half of the
causal square is never computed. P is recomputed in the backward. Block j of all documents is one product, and so are
the query heads that share a key head; `padded_documents` has the layout of the rows.
Scores are computed in float32 even on a bfloat16 base: rounding them to 8 bits would shift probabilities by percents.
The other products use the base's dtype if the processor multiplies it fast, see `products`.
Shape letters:  N query heads,  K key heads,  G = N / K,  T tokens,  M documents × K,  B queries of a block,  L its
                keys,  D head_dim.
Source: Dao et al., "FlashAttention", arXiv:2205.14135, appendix B, without the tiling over keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from finetune_hub.engine.kernels.padded_documents import Group, padded_documents
from finetune_hub.engine.kernels.products import product_dtype


class Block(NamedTuple):
    """Block j of the documents that are long enough to have it, as slices of its group's queries and keys."""

    queries: slice  # of (J · documents · K)
    documents: slice  # of (documents · K)
    keys: slice  # of (J · B)
    bias: Tensor  # (B, last keys)


class BlockAttention(torch.autograd.Function):
    """Isolated causal attention with gradients for query, key and value."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,  # (N, T, D)
        key: Tensor,  # (K, T, D)
        value: Tensor,  # (K, T, D)
        scale: float,
        bounds: tuple[int, ...],
        window: int | None,
    ) -> Tensor:
        layout = padded_documents(bounds, query.shape[0], key.shape[0])
        exact = torch.promote_types(query.dtype, torch.float32)
        queries, keys = _rows(query, layout.query_rows).to(exact).mul_(scale), _rows(key, layout.key_rows).to(exact)
        values = _rows(value, layout.key_rows).to(product_dtype(value))
        output = values.new_empty(len(queries), value.shape[2])
        for group in layout.groups:
            q, o = (_blocks(rows, group, key.shape[0]) for rows in (queries, output))
            k, v = (_documents(rows, group, key.shape[0]) for rows in (keys, values))
            for block in blocks(group, key.shape[0], window, exact):
                probabilities = _probabilities(q, k, block).to(v.dtype)
                torch.bmm(probabilities, v[block.documents, block.keys], out=o[block.queries])
        ctx.save_for_backward(query, key, value)
        ctx.scale, ctx.bounds, ctx.window = scale, bounds, window
        return _tokens(output, layout.queries_back, query)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # (T, N, D)
        query, key, value = ctx.saved_tensors
        heads, key_heads = query.shape[0], key.shape[0]
        layout = padded_documents(ctx.bounds, heads, key_heads)
        exact, dtype = torch.promote_types(query.dtype, torch.float32), product_dtype(query)
        queries, keys, values = (
            _rows(rows, places).to(dtype)
            for rows, places in ((query, layout.query_rows), (key, layout.key_rows), (value, layout.key_rows))
        )
        exact_queries, exact_keys = queries.to(exact, copy=True).mul_(ctx.scale), keys.to(exact)
        grad_outputs = _rows(grad_output.transpose(0, 1), layout.query_rows).index_fill_(0, layout.padding, 0).to(dtype)
        grad_queries, grad_keys, grad_values = (
            queries.new_empty(queries.shape),
            keys.new_zeros(keys.shape),
            values.new_zeros(values.shape),
        )
        for group in layout.groups:
            q, q_exact, d_q, d_o = (
                _blocks(rows, group, key_heads) for rows in (queries, exact_queries, grad_queries, grad_outputs)
            )
            k, k_exact, v, d_k, d_v = (
                _documents(rows, group, key_heads) for rows in (keys, exact_keys, values, grad_keys, grad_values)
            )
            for block in blocks(group, key_heads, ctx.window, exact):
                seen = (block.documents, block.keys)
                probabilities = _probabilities(q_exact, k_exact, block)
                d_v[seen].baddbmm_(probabilities.to(v.dtype).transpose(1, 2), d_o[block.queries])
                d_probabilities = torch.bmm(d_o[block.queries], v[seen].transpose(1, 2)).to(exact)
                d_scores = torch.ops.aten._softmax_backward_data(d_probabilities, probabilities, -1, exact).to(q.dtype)
                torch.bmm(d_scores, k[seen], out=d_q[block.queries])
                d_k[seen].baddbmm_(d_scores.transpose(1, 2), q[block.queries])
        # In the layout of projections, so that their backward gets (T, N · D) without a copy.
        return (
            _tokens(grad_queries, layout.queries_back, query).mul_(ctx.scale).transpose(0, 1),
            _tokens(grad_keys, layout.keys_back, key).mul_(ctx.scale).transpose(0, 1),
            _tokens(grad_values, layout.keys_back, value).transpose(0, 1),
            None,
            None,
            None,
        )


def block_attention(
    query: Tensor,  # (N, T, D)
    key: Tensor,  # (K, T, D)
    value: Tensor,  # (K, T, D)
    scale: float,
    bounds: tuple[int, ...],
    window: int | None = None,
) -> Tensor:
    """Compute the attention of each document [bounds[i], bounds[i + 1]) to itself; return (T, N, D)."""
    output: Tensor = BlockAttention.apply(query, key, value, scale, bounds, window)  # type: ignore[no-untyped-call]
    return output


def blocks(group: Group, key_heads: int, window: int | None, dtype: torch.dtype) -> Iterator[Block]:
    """Yield the group's blocks, each with the keys that any of its queries sees."""
    for j, reaching in enumerate(group.reaching):
        stop = (j + 1) * group.block
        first_key = 0 if window is None else max(0, stop - group.block - window + 1)
        first_query = j * group.documents * key_heads
        yield Block(
            slice(first_query, first_query + reaching * key_heads),
            slice(0, reaching * key_heads),
            slice(first_key, stop),
            # Without a window, only the square at the end has keys after a query.
            _bias(group.block, group.block if window is None else stop - first_key, window, dtype),
        )


def _rows(heads: Tensor, places: Tensor) -> Tensor:
    """(heads, T, D) -> (padded, D)."""
    return heads.reshape(-1, heads.shape[2]).index_select(0, places)


def _tokens(rows: Tensor, places: Tensor, heads: Tensor) -> Tensor:
    """(padded, D) -> (T, heads, D), in the dtype of `heads` (heads, T, any D)."""
    return rows.index_select(0, places).to(heads.dtype).view(heads.shape[1], heads.shape[0], -1)


def _blocks(rows: Tensor, group: Group, key_heads: int) -> Tensor:
    """(padded, D) -> (J · M, G · B, D)."""
    return rows[group.queries].view(len(group.reaching) * group.documents * key_heads, -1, rows.shape[1])


def _documents(rows: Tensor, group: Group, key_heads: int) -> Tensor:
    """(padded, D) -> (M, J · B, D)."""
    return rows[group.keys].view(group.documents * key_heads, -1, rows.shape[1])


def _probabilities(
    queries: Tensor,  # (J · M, G · B, D), scaled
    keys: Tensor,  # (M, J · B, D)
    block: Block,
) -> Tensor:
    """(reaching documents · K, G · B, L): softmax of the block's scores over the keys that each query sees."""
    scores = torch.bmm(queries[block.queries], keys[block.documents, block.keys].transpose(1, 2))
    queries_of_head, biased_keys = block.bias.shape
    scores.view(-1, queries_of_head, scores.shape[2])[:, :, -biased_keys:] += block.bias
    return torch.softmax(scores, dim=-1)


@cache
def _bias(queries: int, keys: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """(B, L): 0 where a query sees a key, -inf elsewhere."""
    seen = sees(queries, keys, window, torch.device("cpu"))
    return torch.zeros(queries, keys, dtype=dtype).masked_fill_(~seen, -torch.inf)


def sees(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(queries, keys), true where a query sees a key: itself and `window - 1` before it. Both end at the same token."""
    query = torch.arange(keys - queries, keys, device=device)
    distance = query[:, None] - torch.arange(keys, device=device)
    return (distance >= 0) & (distance < (window or keys))
