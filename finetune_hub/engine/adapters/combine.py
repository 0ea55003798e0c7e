"""Combine adapters for the same base model, with each layer's update Δᵢ = sᵢ Bᵢ Aᵢ and each adapter's weight wᵢ:

    cat       Σ wᵢ Δᵢ, exactly; the ranks add up
    svd       the closest approximation of Σ wᵢ Δᵢ with the requested rank
    linear    (Σ √(wᵢ sᵢ) Bᵢ) (Σ √(wᵢ sᵢ) Aᵢ), as in PEFT: needs equal ranks, has cross terms between the adapters
    ties      the largest entries of each Δᵢ; where signs differ, the mean of the heavier side; then as svd
    dare      random entries of each Δᵢ, scaled up for those dropped; then as svd

Source: Yadav et al., "TIES-Merging", arXiv:2306.01708, section 4; Yu et al., "DARE", arXiv:2311.03099, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.lora_layers import LoraLinear
from finetune_hub.engine.errors import BadConfig

Combination = Literal["cat", "svd", "linear", "ties", "dare"]


@dataclass(frozen=True)
class AdapterShare:
    """One adapter's share of one layer's update."""

    lora_a: Tensor  # (R, I)
    lora_b: Tensor  # (O, R)
    scale: float
    weight: float

    def update(self) -> Tensor:  # (O, I)
        return self.weight * self.scale * (self.lora_b @ self.lora_a)


@torch.no_grad()
def combined_factors(
    adapters: dict[str, LoraAdapter],
    weights: dict[str, float],
    how: Combination,
    *,
    rank: int | None,
    density: float,
    seed: int,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of each layer of the combined adapter, for a scale of 1. A layer may be in only some adapters.

    Args:
        rank: Rank of the result for `svd`, `ties` and `dare`; by default the adapters' largest.
        density: Share of each update's entries that `ties` and `dare` keep.

    Raises:
        BadConfig: an adapter is not plain LoRA (DoRA, embeddings, experts), or the ranks or weights do not fit `how`.
    """
    parts: dict[str, list[AdapterShare]] = {}
    for name, adapter in adapters.items():
        for path, layer in adapter.layers.items():
            if type(layer) is not LoraLinear:
                raise BadConfig(
                    f"{path} of {name} is not plain LoRA on a linear layer.", "Combine only plain LoRA adapters."
                )
            parts.setdefault(path, []).append(AdapterShare(*layer.factors(), layer.scale, weights[name]))
    ranks = {part.lora_a.shape[0] for own in parts.values() for part in own}
    if how == "linear" and (len(ranks) != 1 or min(weights.values()) < 0):
        raise BadConfig("`linear` needs adapters of equal rank and non-negative weights.", "Use `cat` or `svd`.")
    generator = torch.Generator().manual_seed(seed)
    target = rank or max(ranks)
    ways: dict[Combination, Callable[[list[AdapterShare]], tuple[Tensor, Tensor]]] = {
        "cat": _concatenated,
        "linear": _linear,
        "svd": lambda own: _closest(_sum([part.update() for part in own]), target),
        "ties": lambda own: _closest(_elected([_largest(part.update(), density) for part in own]), target),
        "dare": lambda own: _closest(_sum([_thinned(part.update(), density, generator) for part in own]), target),
    }
    return {path: ways[how](own) for path, own in parts.items()}


def _concatenated(parts: list[AdapterShare]) -> tuple[Tensor, Tensor]:
    return (
        torch.cat([part.lora_a for part in parts]),
        torch.cat([part.weight * part.scale * part.lora_b for part in parts], dim=1),
    )


def _linear(parts: list[AdapterShare]) -> tuple[Tensor, Tensor]:
    roots = [math.sqrt(part.weight * part.scale) for part in parts]
    return (
        _sum([root * part.lora_a for root, part in zip(roots, parts, strict=True)]),
        _sum([root * part.lora_b for root, part in zip(roots, parts, strict=True)]),
    )


def _closest(update: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the factors of the nearest matrix of that rank (Eckart and Young), with singular values split evenly."""
    u, s, vh = torch.linalg.svd(update, full_matrices=False)
    root = s[:rank].sqrt()
    return root[:, None] * vh[:rank], u[:, :rank] * root


def _largest(update: Tensor, density: float) -> Tensor:
    kept = max(1, round(density * update.numel()))
    threshold = update.abs().flatten().kthvalue(update.numel() - kept + 1).values
    return update * (update.abs() >= threshold)


def _elected(updates: list[Tensor]) -> Tensor:
    stacked = torch.stack(updates)
    agreeing = stacked * (stacked.sign() == stacked.sum(dim=0).sign())
    return agreeing.sum(dim=0) / (agreeing != 0).sum(dim=0).clamp_min(1)


def _thinned(update: Tensor, density: float, generator: torch.Generator) -> Tensor:
    kept = torch.rand(update.shape, generator=generator) < density
    return update * kept.to(update.device) / density


def _sum(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors).sum(dim=0)
