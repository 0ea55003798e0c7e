"""Which modules of a model get an adapter, and with which rank and alpha.

    all-linear            every linear layer except the output head
    a list of names       modules whose path ends with one of them: linear layers and embeddings
    a string              a regular expression for the whole path

The rules are PEFT's, so that a configuration has the same meaning in both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.kernels.frozen_linear import QuantizedLinear
from finetune_hub.engine.model import output_head
from finetune_hub.spec.methods.low_rank import LowRankMethod

# Mamba reads this layer's weight without calling the layer, so an adapter would have no effect until it is merged.
_NEVER_CALLED = {"mamba": ["dt_proj"], "falcon_mamba": ["dt_proj"]}
# Linear layers with their own forward that computes the same.
_SAME_AS_LINEAR = {"FalconLinear"}


def targeted_modules(model: PreTrainedModel, method: LowRankMethod) -> dict[str, nn.Module]:
    """Return the modules that get an adapter, by path, in the model's order.

    Raises:
        BadConfig: a target matches no module, or no module is left.
    """
    head = output_head(model)
    never_called = _NEVER_CALLED.get(model.config.model_type, [])
    linears = {
        path: module
        for path, module in model.named_modules()
        if is_linear(module) and module is not head and not matches(path, never_called)
    }
    targets = method.target_modules
    candidates = linears
    if targets != "all-linear":
        candidates = {
            path: module
            for path, module in model.named_modules()
            if path in linears or isinstance(module, nn.Embedding)
        }
        _check_targets(targets, candidates, linears)
        candidates = {path: module for path, module in candidates.items() if matches(path, targets)}
    if method.exclude_modules is not None:
        candidates = {path: module for path, module in candidates.items() if not matches(path, method.exclude_modules)}
    if not candidates and not method.target_parameters:
        raise BadConfig(
            f"No layer of {type(model).__name__} is left for LoRA.",
            f"Target others of {last_names(linears)}, or choose another base model.",
        )
    return candidates


def targeted_parameters(model: PreTrainedModel, method: LowRankMethod) -> dict[str, nn.Parameter]:
    """Return the parameters that get their own adapter, by path.

    Raises:
        BadConfig: a name matches none, or one that is neither a matrix nor a stack of matrices.
    """
    wanted = method.target_parameters or []
    parameters = {path: parameter for path, parameter in model.named_parameters() if matches(path, wanted)}
    for target in wanted:
        if not any(matches(path, [target]) for path in parameters):
            stacks = (path for path, parameter in model.named_parameters() if parameter.dim() == 3)
            raise BadConfig(
                f"No parameter of the base model is called {target!r}.",
                f"Choose from a mixture's experts: {last_names(stacks) or 'this model has none'}.",
            )
    other = next((path for path, parameter in parameters.items() if parameter.dim() not in (2, 3)), None)
    if other is not None:
        raise BadConfig(f"{other} is neither a matrix nor a stack of matrices.", "Leave it out of `target_parameters`.")
    return parameters


def is_linear(module: nn.Module) -> bool:
    """Return whether the module computes exactly x Wᵀ + b."""
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward or type(module).__name__ in _SAME_AS_LINEAR
    return type(module) in (Conv1D, QuantizedLinear)


def matches(path: str, pattern: str | list[str]) -> bool:
    """Return whether a path ends with one of the names, or fully matches the regular expression."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in pattern)


def rank_and_scale(method: LowRankMethod, path: str) -> tuple[int, float]:
    """Return R and s, from the patterns that match this path, or from the method's rank and alpha."""
    rank = int(_by_pattern(method.rank_pattern or {}, path) or method.rank)
    alpha = _by_pattern(method.alpha_pattern or {}, path) or method.alpha
    return rank, alpha / (math.sqrt(rank) if method.use_rslora else rank)


def last_names(paths: Iterable[str]) -> str:
    return ", ".join(sorted({path.rpartition(".")[2] for path in paths}))


def _check_targets(targets: str | list[str], candidates: Iterable[str], linears: Iterable[str]) -> None:
    if isinstance(targets, str):
        if not any(matches(path, targets) for path in candidates):
            raise BadConfig(
                f"No layer of the base model has a path that fully matches {targets!r}.",
                r"Write a list of names, such as [q_proj], or a pattern such as '.*\.(q|v)_proj'.",
            )
        return
    for target in targets:
        if not any(matches(path, [target]) for path in candidates):
            raise BadConfig(
                f"No linear layer of the base model is called {target!r}.",
                f"Choose `target_modules` from {last_names(linears)}, or name an embedding.",
            )


def _by_pattern(patterns: dict[str, int] | dict[str, float], path: str) -> float | None:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", path)), None)
