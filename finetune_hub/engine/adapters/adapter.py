"""The interface of adapters: a method's trainable tensors on a model, which can be removed and put back."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.kernels.frozen_weight import is_quantised, shape_of
from finetune_hub.spec.methods.method import Method


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
        """Put a removed adapter back on the model."""
        ...

    def remove(self) -> None:
        """Restore the model as it was; the adapter keeps its tensors."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters, by names that are stable across runs."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: the parameters, and constants that training started from."""
        ...

    def learning_rate_factor(self, name: str) -> float:
        """Return a parameter's learning rate relative to the run's."""
        ...

    def disabled(self) -> AbstractContextManager[None]:
        """Disable the adapter inside the context."""
        ...


def parameter_groups(adapter: Adapter, learning_rate: float) -> list[dict[str, Any]]:
    """Return the optimizer's groups, one per learning rate; `peak_lr` is the base value for the schedule."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in adapter.parameters().items():
        groups.setdefault(adapter.learning_rate_factor(name), []).append(parameter)
    return [
        {"params": parameters, "lr": factor * learning_rate, "peak_lr": factor * learning_rate}
        for factor, parameters in groups.items()
    ]


def total_parameters(adapter: Adapter) -> int:
    """Count the parameters of base model and adapter; a packed weight counts with its unpacked size."""
    counts = {
        id(weight): math.prod(shape_of(weight)) if is_quantised(weight) else weight.numel()
        for weight in [*adapter.model.parameters(), *adapter.parameters().values()]
    }
    return sum(counts.values())
