"""LoRA on parameters outside of linear layers: a mixture's experts, stored as one 3-D parameter, and its router.

    W'ₑ = Wₑ + s · Bₑ Aₑ            A (E·R, I),  B (O, R·E), in the layout of PEFT's `target_parameters`

The sum is computed once per forward pass of the parameter's module, which uses it in its own way; a known module of
experts uses weight and factors separately instead (`engine/fast_experts.py`).
Shape letters:  E experts,  R rank,  I in_features,  O out_features.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.targets import rank_and_scale
from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.methods.low_rank import LowRankMethod


class LoraParameter(nn.Module):
    """The adapter of one parameter of (O, I), (E, O, I), or (E, I, O) if the module has `is_transposed`."""

    def __init__(self, model: PreTrainedModel, path: str, method: LowRankMethod, generator: torch.Generator) -> None:
        super().__init__()
        if method.use_dora or method.starts_from_weight or method.dropout:
            raise BadConfig(
                f"{path} is a parameter, not a layer, and supports only plain LoRA.",
                "Train without DoRA, PiSSA, OLoRA and dropout, or without `target_parameters`.",
            )
        owner, _, self.parameter_name = path.rpartition(".")
        self._owner = [model.get_submodule(owner)]  # In a list, so that it does not become a submodule.
        weight = getattr(self.owner, self.parameter_name)
        *stacked, rows, columns = weight.shape
        self.experts = math.prod(stacked)
        self.is_transposed = weight.dim() == 3 and bool(getattr(self.owner, "is_transposed", False))
        in_features, out_features = (rows, columns) if self.is_transposed else (columns, rows)
        self.rank, self.scale = rank_and_scale(method, path)
        self.enabled = True
        initial_a = torch.empty(self.experts * self.rank, in_features)
        bound = 1 / math.sqrt(in_features)
        self.lora_a = nn.Parameter(initial_a.uniform_(-bound, bound, generator=generator).to(weight.device))
        self.lora_b = nn.Parameter(torch.zeros(out_features, self.rank * self.experts, device=weight.device))
        self._hooks: list[Any] = []

    @staticmethod
    def of(owner: nn.Module, parameter_name: str) -> LoraParameter | None:
        """Return the adapter of this module's parameter, if one is installed."""
        if not parametrize.is_parametrized(owner, parameter_name):
            return None
        first = owner.parametrizations[parameter_name][0]  # type: ignore[index]
        return first.layer if isinstance(first, _Adapted) else None

    @property
    def owner(self) -> nn.Module:
        return self._owner[0]

    @property
    def weight(self) -> Tensor:
        """The frozen parameter."""
        if parametrize.is_parametrized(self.owner, self.parameter_name):
            original: Tensor = self.owner.parametrizations[self.parameter_name].original  # type: ignore[index, union-attr]
            return original
        own: Tensor = getattr(self.owner, self.parameter_name)
        return own

    def install(self) -> None:
        parametrize.register_parametrization(self.owner, self.parameter_name, _Adapted(self), unsafe=True)
        written_out = ExitStack()  # Compute each parameter once per forward pass.
        self._hooks = [
            self.owner.register_forward_pre_hook(lambda *_: written_out.enter_context(parametrize.cached())),
            self.owner.register_forward_hook(lambda *_: written_out.close(), always_call=True),
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        parametrize.remove_parametrizations(self.owner, self.parameter_name, leave_parametrized=False)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A (E, R, I) and B (E, O, R)."""
        lora_a = self.lora_a.view(self.experts, self.rank, -1)
        return lora_a, self.lora_b.view(-1, self.rank, self.experts).permute(2, 0, 1)

    def adapted_weight(self, weight: Tensor) -> Tensor:
        """Return the parameter with its update."""
        lora_a, lora_b = self.factors()
        update = self.scale * (lora_b @ lora_a)
        update = update.transpose(1, 2) if self.is_transposed else update
        return weight + update.to(weight.dtype).reshape(weight.shape)


class _Adapted(nn.Module):
    """The parametrisation, which references the layer without owning it."""

    def __init__(self, layer: LoraParameter) -> None:
        super().__init__()
        self._layer = [layer]

    @property
    def layer(self) -> LoraParameter:
        return self._layer[0]

    def forward(self, weight: Tensor) -> Tensor:
        return self.layer.adapted_weight(weight) if self.layer.enabled else weight
