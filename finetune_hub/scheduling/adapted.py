"""Which layers a method puts an adapter beside, under which rank, and how many numbers it trains: without the model.

The rules are `engine.adapters.targets`'; layers are called as Llama calls them. Names that fit none of these (a model
that calls its layers otherwise) stand for all of them: planning rather counts too much than too little.
"""

from __future__ import annotations

import re

from finetune_hub.spec.methods import LowRankMethod, PrefixTuningMethod
from finetune_hub.spec.shape import Linear, Shape
from finetune_hub.spec.training import TrainingSpec


def adapted_ranks(spec: TrainingSpec, shape: Shape) -> dict[Linear, int]:
    """The adapted linear layers of one decoder layer, each with its rank."""
    method = spec.method
    if not isinstance(method, LowRankMethod):
        return {}
    targets, excluded = method.target_modules, method.exclude_modules
    chosen = [linear for linear in shape.linears if targets == "all-linear" or _matches(linear.path, targets)]
    kept = [linear for linear in chosen or shape.linears if excluded is None or not _matches(linear.path, excluded)]
    ranks = method.rank_pattern or {}
    return {
        linear: next((rank for key, rank in ranks.items() if re.match(rf"(.*\.)?({key})$", linear.path)), method.rank)
        for linear in kept
    }


def trained_parameters(spec: TrainingSpec, shape: Shape) -> int:
    """P: what the optimizer updates."""
    method, facts = spec.method, shape.facts
    if isinstance(method, LowRankMethod):
        ranks = adapted_ranks(spec, shape)
        matrices = sum(rank * (linear.in_features + linear.out_features) for linear, rank in ranks.items())
        magnitudes = sum(linear.out_features for linear in ranks) if method.use_dora else 0
        return facts.layers * (matrices + magnitudes)
    width = 2 * facts.layers * shape.keys
    if not isinstance(method, PrefixTuningMethod):
        return method.virtual_tokens * shape.hidden
    if not method.prefix_projection:
        return method.virtual_tokens * width
    inner = method.projection_hidden_size
    return method.virtual_tokens * shape.keys + inner * (shape.keys + 1) + width * (inner + 1)


def _matches(path: str, pattern: str | list[str]) -> bool:
    if isinstance(pattern, str):
        return re.fullmatch(pattern, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in pattern)
