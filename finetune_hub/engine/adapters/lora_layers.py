"""The layers that replace frozen ones in LoRA; they share the base layers' weights without copying.

    linear       y = x Wᵀ + b + s · dropout(x) Aᵀ Bᵀ                       A (R, I),  B (O, R)
    embedding    y = W[id] + s · Aᵀ[id] Bᵀ                                 A (R, V),  B (H, R)
    PiSSA, OLoRA … − s · dropout(x) A₀ᵀ B₀ᵀ, with the initial values A₀ and B₀ of A and B

Shape letters:  T tokens,  I in_features,  O out_features,  R rank,  V vocabulary,  H hidden.
Source: Hu et al., "LoRA", arXiv:2106.09685, section 4.1; Meng et al., "PiSSA", arXiv:2404.02948, section 3;
Büyükakyüz, "OLoRA", arXiv:2406.01775, section 3.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from finetune_hub.engine.adapters.targets import rank_and_scale
from finetune_hub.engine.kernels.frozen_linear import frozen_linear
from finetune_hub.engine.kernels.frozen_weight import dense, shape_of
from finetune_hub.engine.kernels.lora_linear import lora_linear
from finetune_hub.spec.methods.low_rank import LowRankMethod

# Above this size, principal components use a randomised decomposition, as the exact one takes minutes.
EXACT_SVD_LIMIT = 1024


class LoraLinear(nn.Module):
    """A frozen linear layer, dense or quantised, with an adapter."""

    def __init__(
        self,
        linear: Any,  # torch's, GPT-2's Conv1D, or a quantised one
        method: LowRankMethod,
        path: str,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.weight: nn.Parameter = linear.weight
        self.bias: nn.Parameter | None = linear.bias
        self.is_transposed = isinstance(linear, Conv1D)  # GPT-2 stores (I, O).
        self.out_features, self.in_features = shape_of(self.base_weight())
        self.rank, self.scale = rank_and_scale(method, path)
        self.dropout = method.dropout
        self.enabled = True
        self.start_a: Tensor | None = None
        self.start_b: Tensor | None = None
        device = self.weight.device
        self.lora_a = nn.Parameter(_start_a(self.rank, self.in_features, method, generator).to(device))  # (R, I)
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, self.rank, device=device))  # (O, R)
        if method.starts_from_weight:
            self._start_from_weight(method, generator)
        self.train(linear.training)

    def base_weight(self) -> Tensor:
        """(O, I), frozen; packed if quantised."""
        return self.weight.t() if self.is_transposed else self.weight

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A and B of the whole update; twice the rank if the initial factors are subtracted."""
        if self.start_a is None or self.start_b is None:
            return self.lora_a, self.lora_b
        return torch.cat([self.lora_a, self.start_a]), torch.cat([self.lora_b, -self.start_b], dim=1)

    def forward(self, x: Tensor) -> Tensor:  # (…, I) -> (…, O)
        if not self.enabled:
            return frozen_linear(x, self.base_weight(), self.bias)
        return lora_linear(x, self.drop(x), self.base_weight(), self.bias, *self.factors(), self.scale)

    def drop(self, x: Tensor) -> Tensor | None:
        """Return the adapter's input after dropout; None if it is x itself."""
        return nn.functional.dropout(x, self.dropout) if self.training and self.dropout else None

    @torch.no_grad()
    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return the merged weight (O, I), from the base weight in float32."""
        lora_a, lora_b = self.factors()
        return weight + self.scale * (lora_b @ lora_a)

    @torch.no_grad()
    def _start_from_weight(self, method: LowRankMethod, generator: torch.Generator) -> None:
        """Initialise A and B as part of the weight; ranks beyond a narrow weight's start as in plain LoRA."""
        weight = dense(self.base_weight(), torch.float32).float()
        if method.init_weights == "olora":
            start_a, start_b = _orthonormal_factors(weight, self.rank)
        else:
            start_a, start_b = _principal_factors(weight, self.rank, self.scale, generator)
        self.lora_a[: len(start_a)] = start_a
        self.lora_b[:, : len(start_a)] = start_b
        self.start_a, self.start_b = self.lora_a.detach().clone(), self.lora_b.detach().clone()


def _principal_factors(
    weight: Tensor,  # (O, I)
    rank: int,
    scale: float,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return PiSSA's A and B, with s · B A = the weight's first principal components."""
    if min(weight.shape) <= EXACT_SVD_LIMIT:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
            u, s, v = torch.svd_lowrank(weight, q=min(2 * rank, *weight.shape), niter=8)
            vh = v.t()
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root


def _orthonormal_factors(
    weight: Tensor,  # (O, I)
    rank: int,
) -> tuple[Tensor, Tensor]:
    """Return OLoRA's B = the first columns of Q and A = the first rows of R, with W = Q R.

    Q's first columns depend only on the weight's first columns, and R's first rows are those, transposed, times W.
    So the full decomposition, which takes minutes for a large layer, is not needed.
    """
    q, _ = torch.linalg.qr(weight[:, :rank])
    return q.t() @ weight, q


class LoraEmbedding(nn.Module):
    """A frozen embedding with an adapter: both are looked up, added, and scaled like the base module."""

    def __init__(self, embedding: nn.Embedding, method: LowRankMethod, path: str, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = embedding.weight
        self.num_embeddings, self.embedding_dim = embedding.weight.shape
        self.embed_scale = getattr(embedding, "embed_scale", 1.0)  # Gemma scales its embeddings.
        self.rank, self.scale = rank_and_scale(method, path)
        self.enabled = True
        device = self.weight.device
        self.lora_a = nn.Parameter(torch.zeros(self.rank, self.num_embeddings, device=device))  # (R, V)
        initial_b = torch.randn(self.embedding_dim, self.rank, generator=generator)
        self.lora_b = nn.Parameter(initial_b.to(device))  # (H, R)
        self.train(embedding.training)

    def forward(self, input_ids: Tensor) -> Tensor:  # (…) -> (…, H)
        base = nn.functional.embedding(input_ids, self.weight)
        if self.enabled:
            update = nn.functional.embedding(input_ids, self.lora_a.t()) @ self.lora_b.t()
            base = base + (self.scale * update).to(base.dtype)
        return base * torch.as_tensor(self.embed_scale, dtype=base.dtype)

    @torch.no_grad()
    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return the merged weight, as `LoraLinear.adapted_weight`, for a weight of (V, H)."""
        return weight + self.scale * (self.lora_b @ self.lora_a).t()


def _start_a(rank: int, in_features: int, method: LowRankMethod, generator: torch.Generator) -> Tensor:
    initial = torch.empty(rank, in_features)
    if method.init_weights == "gaussian":
        return initial.normal_(std=1 / rank, generator=generator)
    bound = 1 / math.sqrt(in_features)
    return initial.uniform_(-bound, bound, generator=generator)
