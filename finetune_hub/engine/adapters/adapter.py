"""What a method leaves on a model: an adapter names its trainable tensors, and can be taken off and put back."""

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
