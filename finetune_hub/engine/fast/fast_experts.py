"""A mixture's experts on kernels of ours: the module that transformers marks, with LoRA beside its weights or alone.

Such a module has two stacks of weights, (E, O, I) or (E, I, O), and computes: a layer up, the gate or the activation, a
layer down. Its own code reads the stacks whole, so that LoRA on them has to be written out for all experts first.
`fast_modules` proves the kernels on the very module, without its adapters: what those add, the kernels' tests prove.
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
    """The kernels for this module, if it is one of experts that have an adapter or whose products are slow."""
    if not _is_known(module):
        return None
    weights = [_weight(module, name) for name in _names(module)]
    is_slow = any(product_dtype(weight) != weight.dtype for weight in weights)
    return partial(_run, module) if _adapters(module) or is_slow else None


def proof_inputs(module: nn.Module, tokens: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor] | None:
    """Random rows, choices and weights for a module of experts; None for another module."""
    if not _is_known(module):
        return None
    weight = _weight(module, _names(module)[0])
    width = weight.shape[1 if module.is_transposed else 2]
    hidden = torch.randn(tokens, width, generator=generator).to(weight.device, weight.dtype)
    chosen = torch.randint(len(weight), (tokens, 2), generator=generator).to(weight.device)
    return hidden, chosen, torch.rand(tokens, 2, generator=generator).to(weight.device, weight.dtype)


@contextmanager
def without_adapters(module: nn.Module) -> Iterator[None]:
    """The experts alone, inside the context."""
    with ExitStack() as undone:
        for layer in _adapters(module):
            undone.callback(setattr, layer, "enabled", layer.enabled)
            layer.enabled = False
        yield


def _is_known(module: nn.Module) -> bool:
    """Whether transformers marks the module as one of experts, all on this device, with two frozen stacks."""
    if getattr(module, "_is_expert_parallel", None) is not False:
        return False
    weights = [_weight(module, name) for name in _names(module)]
    return all(weight is not None and weight.dim() == 3 and not weight.requires_grad for weight in weights)


def _names(module: Any) -> tuple[str, str]:
    return "gate_up_proj" if module.has_gate else "up_proj", "down_proj"


def _adapters(module: nn.Module) -> list[LoraParameter]:
    return [layer for name in _names(module) if (layer := LoraParameter.of(module, name))] if _is_known(module) else []


def _weight(module: nn.Module, name: str) -> Any:
    """The parameter itself, also where an adapter takes its place; None where there is none of that name."""
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
