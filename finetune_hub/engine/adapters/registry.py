"""The methods that the engine can train. A new one is a file beside this one, an entry here, and its PEFT spelling.

An adapter is what a method leaves on a model: it names its trainable tensors and can be switched off.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from torch import nn
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.spec.methods import Method


class Adapter(Protocol):
    """One method attached to one model."""

    method: Method

    @classmethod
    def attach(cls, model: PreTrainedModel, method: Any, *, seed: int = 0) -> Self:
        """Freeze the model and add the method's tensors to it, in place."""
        ...

    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by a name that stays the same from run to run."""
        ...

    def disabled(self) -> AbstractContextManager[None]:
        """The base model alone, inside the context."""
        ...


ADAPTERS: dict[str, type[Any]] = {
    "lora": LoraAdapter,
}


def attach(model: PreTrainedModel, method: Method, *, seed: int = 0) -> Adapter:
    """Attach the method that the spec names."""
    adapter: Adapter = ADAPTERS[method.type].attach(model, method, seed=seed)
    return adapter
