"""The methods that the engine can train. A new one is a file beside this one, an entry here, and its PEFT spelling.

An adapter is what a method leaves on a model: it names its trainable tensors and can be switched off.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.prefix_tuning import PrefixTuningAdapter
from finetune_hub.engine.adapters.prompt_tuning import PromptTuningAdapter
from finetune_hub.engine.kernels.frozen_weight import is_quantised, shape_of
from finetune_hub.spec.methods import Method


class Adapter(Protocol):
    """One method attached to one model."""

    model: PreTrainedModel

    @property
    def method(self) -> Method: ...

    @classmethod
    def attach(cls, model: PreTrainedModel, method: Any, *, seed: int = 0) -> Self:
        """Freeze the model and add the method's tensors to it, in place."""
        ...

    def install(self) -> None:
        """Put an adapter that was removed back onto the model."""
        ...

    def remove(self) -> None:
        """Leave the model as it was before; the adapter keeps its tensors."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by a name that stays the same from run to run."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs: the parameters, and constants that training started from."""
        ...

    def learning_rate_factor(self, name: str) -> float:
        """A parameter's learning rate, in units of the run's."""
        ...

    def disabled(self) -> AbstractContextManager[None]:
        """The base model alone, inside the context."""
        ...


ADAPTERS: dict[str, type[Any]] = {
    "lora": LoraAdapter,
    "qlora": LoraAdapter,
    "prompt_tuning": PromptTuningAdapter,
    "prefix_tuning": PrefixTuningAdapter,
}


def attach(model: PreTrainedModel, method: Method, *, seed: int = 0) -> Adapter:
    """Attach the method that the spec names."""
    adapter: Adapter = ADAPTERS[method.type].attach(model, method, seed=seed)
    return adapter


def parameter_groups(adapter: Adapter, learning_rate: float) -> list[dict[str, Any]]:
    """The optimizer's groups: the parameters of one learning rate each, which a schedule starts from: `peak_lr`."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in adapter.parameters().items():
        groups.setdefault(adapter.learning_rate_factor(name), []).append(parameter)
    return [
        {"params": parameters, "lr": factor * learning_rate, "peak_lr": factor * learning_rate}
        for factor, parameters in groups.items()
    ]


def total_parameters(adapter: Adapter) -> int:
    """Of the base model and the adapter together; a packed weight counts as what it stands for."""
    counts = {
        id(weight): math.prod(shape_of(weight)) if is_quantised(weight) else weight.numel()
        for weight in [*adapter.model.parameters(), *adapter.parameters().values()]
    }
    return sum(counts.values())
