"""LoRA: train two thin matrices next to frozen layers.

    y = x Wᵀ + b + s · dropout(x) Aᵀ Bᵀ            s = alpha / rank,  or alpha / √rank (rsLoRA)

A starts uniform in ±1/√I and B at zero, so a new adapter changes nothing. Both are float32 even on a bfloat16 or 4-bit
base: steps of 1e-4 would be lost in bfloat16's 8 bits.

Shape letters:  I in_features,  O out_features,  R rank.
Source: Hu et al., "LoRA", arXiv:2106.09685, section 4.1; Kalajdzievski, "rsLoRA", arXiv:2312.03732; Hayou et al.,
"LoRA+", arXiv:2402.12354, section 4 (B learns faster than A).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.dora import DoraLinear
from finetune_hub.engine.adapters.lora_layers import LoraEmbedding, LoraLinear
from finetune_hub.engine.adapters.lora_parameter import LoraParameter
from finetune_hub.engine.adapters.targets import targeted_modules, targeted_parameters
from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.methods.low_rank import LoraMethod, LowRankMethod, QloraMethod

LoraLayer = LoraLinear | LoraEmbedding | LoraParameter


class LoraAdapter:
    """The LoRA layers of one model, by the path of the module that each replaces."""

    def __init__(
        self, model: PreTrainedModel, method: LoraMethod | QloraMethod, layers: dict[str, LoraLinear | LoraEmbedding]
    ) -> None:
        self.model, self.method = model, method
        self.replacements = layers
        self.replaced = {path: model.get_submodule(path) for path in layers}
        self.experts: dict[str, LoraParameter] = {}

    @classmethod
    def attach(cls, model: PreTrainedModel, method: LoraMethod | QloraMethod, *, seed: int = 0) -> LoraAdapter:
        """Freeze the model and add an adapter to each targeted layer, in place.

        Raises:
            BadConfig: a target matches no layer, or one that the method cannot adapt.
        """
        model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        layers = {
            path: _layer_for(module, method, path, generator)
            for path, module in targeted_modules(model, method).items()
        }
        adapter = cls(model, method, layers)
        for path in targeted_parameters(model, method):
            adapter.experts[path] = LoraParameter(model, path, method, generator)
        adapter.install()
        return adapter

    @property
    def layers(self) -> dict[str, LoraLayer]:
        """All layers, by the path of what they adapt."""
        return {**self.replacements, **self.experts}

    def install(self) -> None:
        """Replace the base model's layers with the adapted ones."""
        self.enable(True)
        for path, layer in self.replacements.items():
            layer.train(self.replaced[path].training)
            self.model.set_submodule(path, layer)
        for experts in self.experts.values():
            experts.install()

    def remove(self) -> None:
        """Restore the model's own layers. An adapted layer that is still referenced computes the base layer."""
        self.enable(False)
        for path, module in self.replaced.items():
            module.train(self.replacements[path].training)
            self.model.set_submodule(path, module)
        for experts in self.experts.values():
            experts.remove()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {
            f"{path}.{name}": parameter
            for path, layer in self.layers.items()
            for name in ("lora_a", "lora_b", "magnitude")
            if (parameter := getattr(layer, name, None)) is not None
        }

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: the parameters, and the initial factors of PiSSA and OLoRA."""
        starts = {
            f"{path}.{name}": tensor
            for path, layer in self.layers.items()
            for name in ("start_a", "start_b")
            if (tensor := getattr(layer, name, None)) is not None
        }
        return {**self.parameters(), **starts}

    def learning_rate_factor(self, name: str) -> float:
        """Return the factor of LoRA+: B's learning rate relative to A's."""
        return self.method.learning_rate_ratio if name.endswith(".lora_b") else 1.0

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Disable the adapter inside the context."""
        self.enable(False)
        try:
            yield
        finally:
            self.enable(True)

    def enable(self, enabled: bool) -> None:
        """Turn the layers' updates on or off, even if the layers are not installed."""
        for layer in self.layers.values():
            layer.enabled = enabled


def _layer_for(
    module: nn.Module, method: LowRankMethod, path: str, generator: torch.Generator
) -> LoraLinear | LoraEmbedding:
    if not isinstance(module, nn.Embedding):
        return (DoraLinear if method.use_dora else LoraLinear)(module, method, path, generator)
    if method.use_dora or method.starts_from_weight or method.dropout:
        raise BadConfig(
            f"{path} is an embedding, which supports only plain LoRA.",
            "Leave it out of `target_modules`, or train without DoRA, PiSSA, OLoRA and dropout.",
        )
    return LoraEmbedding(module, method, path, generator)
