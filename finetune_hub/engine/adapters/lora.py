"""LoRA: train two thin matrices beside a frozen linear layer.

    y = x Wᵀ + b + (alpha / rank) · dropout(x) Aᵀ Bᵀ

A starts uniform in ±1/√I, B at zero, so a fresh adapter changes nothing. Both stay in float32, also on a bfloat16
base: steps of 1e-4 would be lost in bfloat16's 8 bits.

Shape letters:  T tokens (packed),  I in_features,  O out_features,  R rank.
Source: Hu et al., "LoRA", arXiv:2106.09685, section 4.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.kernels.lora_linear import lora_linear
from finetune_hub.engine.model import output_head
from finetune_hub.spec.training import LoraMethod


class LoraLinear(nn.Linear):
    """A frozen linear layer with an adapter beside it; the weight is the base layer's own, not a copy."""

    def __init__(self, linear: nn.Linear, method: LoraMethod, generator: torch.Generator) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = method.alpha / method.rank
        self.dropout = method.dropout
        self.enabled = True
        bound = 1 / math.sqrt(self.in_features)
        initial_a = torch.empty(method.rank, self.in_features).uniform_(-bound, bound, generator=generator)
        self.lora_a = nn.Parameter(initial_a.to(linear.weight.device))  # (R, I)
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, method.rank, device=linear.weight.device))  # (O, R)

    def forward(self, x: Tensor) -> Tensor:  # (…, I) -> (…, O)
        if not self.enabled:
            return super().forward(x)
        x_dropped = nn.functional.dropout(x, self.dropout) if self.training and self.dropout else None
        return lora_linear(x, x_dropped, self.weight, self.bias, self.lora_a, self.lora_b, self.scale)


class LoraAdapter:
    """The LoRA layers of one model, by the path of the module that each stands in for."""

    def __init__(self, method: LoraMethod, layers: dict[str, LoraLinear]) -> None:
        self.method = method
        self.layers = layers

    @classmethod
    def attach(cls, model: PreTrainedModel, method: LoraMethod, *, seed: int = 0) -> LoraAdapter:
        """Freeze the model and put an adapter beside each targeted linear layer, in place.

        Raises:
            BadConfig: a target names no linear layer.
        """
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        layers = {}
        for path, linear in targeted_layers(model, method).items():
            layer = layers[path] = LoraLinear(linear, method, generator)
            layer.train(linear.training)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, layer)
        return cls(method, layers)

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        named = {}
        for path, layer in self.layers.items():
            named[f"{path}.lora_a"] = layer.lora_a
            named[f"{path}.lora_b"] = layer.lora_b
        return named

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base model alone, inside the context."""
        for layer in self.layers.values():
            layer.enabled = False
        try:
            yield
        finally:
            for layer in self.layers.values():
                layer.enabled = True


def targeted_layers(model: PreTrainedModel, method: LoraMethod) -> dict[str, nn.Linear]:
    """The linear layers that get an adapter, by path, in the model's order.

    Raises:
        BadConfig: a target names no linear layer.
    """
    head = output_head(model)
    linears = {
        path: module for path, module in model.named_modules() if type(module) is nn.Linear and module is not head
    }
    if method.target_modules == "all-linear":
        targets = set(linears)
    else:
        targets = set()
        for target in method.target_modules:
            matching = {path for path in linears if path == target or path.endswith(f".{target}")}
            if not matching:
                names = ", ".join(sorted({path.rpartition(".")[2] for path in linears}))
                raise BadConfig(
                    f"No linear layer of the base model is called {target!r}.",
                    f"Choose `target_modules` among {names}.",
                )
            targets |= matching
    if not targets:
        raise BadConfig(
            f"{type(model).__name__} has no linear layers that LoRA could be put beside.", "Choose another base model."
        )
    return {path: linear for path, linear in linears.items() if path in targets}


@torch.no_grad()
def merge(adapter: LoraAdapter) -> None:
    """Add each update to the base weight, in float32, in place, and switch the adapter off for good."""
    for layer in adapter.layers.values():
        update = layer.scale * (layer.lora_b @ layer.lora_a)
        layer.weight.copy_(layer.weight.float() + update)
        layer.enabled = False
