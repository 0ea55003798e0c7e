"""Our kernels for the experts of a mixture, in the module that transformers marks, with or without LoRA.

Such a module has two stacks of weights, (E, O, I) or (E, I, O), and computes an up layer, the gate or the activation,
and a down layer. Its own code reads whole stacks, so LoRA on them has to be added to all experts first. `fast_modules`
verifies the kernels on the module at hand, without its adapters; those are covered by the kernels' tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finetune_hub.engine.adapters.lora_parameter import LoraParameter
from finetune_hub.engine.kernels.expert_linear import ExpertLora, expert_linear
from finetune_hub.engine.kernels.mixture import mixture
from finetune_hub.engine.kernels.products import product_dtype


def forward_of(module: nn.Module) -> Callable[..., Tensor] | None:
    """Return the kernels for this module, if it has experts with an adapter or slow products."""
    if not _is_known(module):
        return None
    weights = [_weight(module, name) for name in _names(module)]
    is_slow = any(product_dtype(weight) != weight.dtype for weight in weights)
    return partial(_run, module) if _adapters(module) or is_slow else None


def proof_inputs(module: nn.Module, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return random rows, choices and weights for a module of experts; None for any other module."""
    if not _is_known(module):
        return None
    weight = _weight(module, _names(module)[0])
    width = weight.shape[1 if module.is_transposed else 2]
    hidden = torch.randn(tokens, width, generator=generator).to(weight.device, weight.dtype)
    chosen = torch.randint(len(weight), (tokens, 2), generator=generator).to(weight.device)
    return hidden, chosen, torch.rand(tokens, 2, generator=generator).to(weight.device, weight.dtype)


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """Disable the experts' adapters inside the context."""
    with ExitStack() as undone:
        for layer in _adapters(module):
            undone.callback(setattr, layer, "enabled", layer.enabled)
            layer.enabled = False
        yield


def _is_known(module: nn.Module) -> bool:
    """Return whether transformers marks the module as experts, all on this device, with two frozen stacks."""
    if getattr(module, "_is_expert_parallel", None) is not False:
        return False
    weights = [_weight(module, name) for name in _names(module)]
    return all(weight is not None and weight.dim() == 3 and not weight.requires_grad for weight in weights)


def _names(module: Any) -> tuple[str, str]:
    return "gate_up_proj" if module.has_gate else "up_proj", "down_proj"


def _adapters(module: nn.Module) -> list[LoraParameter]:
    return [layer for name in _names(module) if (layer := LoraParameter.of(module, name))] if _is_known(module) else []


def _weight(module: nn.Module, name: str) -> Any:
    """Return the original parameter, even if it has an adapter; None if there is none with that name."""
    layer = LoraParameter.of(module, name)
    return layer.weight if layer else module._parameters.get(name)


def _run(module: Any, hidden: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """(T, H), (T, K), (T, K) -> (T, H)."""
    into, out = _names(module)

    def run(rows: Tensor, experts: Tensor, ends: Tensor) -> Tensor:
        rows = _project(module, into, rows, experts, ends)
        rows = module._apply_gate(rows) if module.has_gate else module.act_fn(rows)
        rows = _project(module, out, rows, experts, ends)
        return module.post_expert_norm(rows) if getattr(module, "has_post_expert_norm", False) else rows

    return mixture(hidden, chosen, weights, len(_weight(module, out)), run)


def _project(module: Any, name: str, rows: Tensor, experts: Tensor, ends: Tensor) -> Tensor:
    layer, weight = LoraParameter.of(module, name), _weight(module, name)
    lora = ExpertLora(*layer.factors(), layer.scale) if layer and layer.enabled else None
    rows = expert_linear(rows, weight.mT if module.is_transposed else weight, ends, lora)
    return rows + getattr(module, f"{name}_bias")[experts] if module.has_bias else rows
