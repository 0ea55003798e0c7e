"""Document attention with a prefix: every document sees the same leading keys, and otherwise only its own.

    keys   p₁ … p_P | a₁ a₂ a₃ | b₁ b₂ …       a₂ attends to p₁ … p_P a₁ a₂,  b₁ to p₁ … p_P b₁

Shape letters:  B rows,  N query heads,  K key heads,  P prefix,  T tokens of all documents,  D head_dim.
"""

from __future__ import annotations

from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def prefixed_attention(
    query: Tensor,  # (B, N, T, D)
    key: Tensor,  # (B, K, P + T, D)
    value: Tensor,  # (B, K, P + T, D)
    lengths: tuple[int, ...],
    dropout: float,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """Return (B, T, N, D). Without lengths there is one document."""
    tokens = query.shape[2]
    prefix = key.shape[2] - tokens
    bounds = (0, *accumulate(lengths)) if lengths else (0, tokens)
    outputs = []
    for start, stop in pairwise(bounds):
        own = slice(prefix + start, prefix + stop)
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, start:stop],
                torch.cat([key[:, :, :prefix], key[:, :, own]], dim=2),
                torch.cat([value[:, :, :prefix], value[:, :, own]], dim=2),
                attn_mask=_mask(stop - start, prefix, sliding_window, query.device),
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=query.shape[1] != key.shape[1],
            ).transpose(1, 2)
        )
    return torch.cat(outputs, dim=1)


def _mask(tokens: int, prefix: int, window: int | None, device: torch.device) -> Tensor:
    """(T, P + T), true where a token sees a key: none after it, and within the window, which includes the prefix."""
    query_position = torch.arange(prefix, prefix + tokens, device=device)
    distance = query_position[:, None] - torch.arange(prefix + tokens, device=device)
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)
