"""A mixture of experts: the weighted sum of the outputs of the experts that the router chose for each token.

    yₜ = Σₖ wₜₖ · f(hₜ; eₜₖ)            eₜₖ and wₜₖ the k-th expert of token t, and its weight

The pairs of a token and an expert are sorted by expert, so that each expert's rows are contiguous.
Shape letters:  T tokens,  K experts per token,  S = T K pairs,  E experts,  H hidden.
Source: Shazeer et al., "Outrageously large neural networks", arXiv:1701.06538, section 2; Gale et al., "MegaBlocks",
arXiv:2211.15841, section 3, for the sorting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Rows (S, H) sorted by expert, their experts (S,), and where each expert's rows end (E,); returns (S, H).
RunExperts = Callable[[Tensor, Tensor, Tensor], Tensor]


class Permuted(torch.autograd.Function):
    """x[order] for a permutation. Its gradient is the inverse permutation, faster than indexing's general one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (back,) = ctx.saved_tensors
        return grad.index_select(0, back), None, None


def mixture(
    hidden: Tensor,  # (T, H)
    chosen: Tensor,  # (T, K)
    weights: Tensor,  # (T, K)
    experts: int,
    run: RunExperts,
) -> Tensor:  # (T, H)
    """Return the weighted sum of each token's expert outputs."""
    tokens, top_k = chosen.shape
    sorted_experts, order = chosen.flatten().sort(stable=True)
    back = order.argsort()
    numbers = torch.arange(experts, device=chosen.device)
    ends = torch.searchsorted(sorted_experts, numbers, right=True, out_int32=True)
    pairs = hidden[:, None].expand(-1, top_k, -1).flatten(0, 1)
    made: Tensor = Permuted.apply(pairs, order, back)  # type: ignore[no-untyped-call]
    made = run(made, sorted_experts, ends)
    made = Permuted.apply(made, back, order)  # type: ignore[no-untyped-call]
    return (made.view(tokens, top_k, -1) * weights[..., None]).sum(1).to(hidden.dtype)
