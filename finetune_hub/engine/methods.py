"""The methods that the engine can train: for each of `spec.methods`, its tensors and their PEFT format.

To add one, add a module to `adapters/`, one to `peft/`, and a line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.prefix_tuning import PrefixTuningAdapter
from finetune_hub.engine.adapters.prompt_tuning import PromptTuningAdapter
from finetune_hub.engine.peft import peft_lora, peft_prefix_tuning, peft_prompt_tuning
from finetune_hub.spec.methods.method import Method


class Spelling(Protocol):
    """PEFT's format for an adapter: the interface of the modules in `peft/`."""

    PEFT_TYPE: str

    def tensors_of(self, adapter: Any) -> dict[str, Tensor]:
        """Return the adapter's tensors with PEFT's keys."""
        ...

    def config_of(self, adapter: Any) -> dict[str, Any]:
        """Return the adapter's settings with PEFT's names."""
        ...

    def read_method(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> Method:
        """
        Raises:
            BadConfig: the engine does not support the settings.
        """
        ...

    def load(self, adapter: Any, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors, whose keys and shapes match, into the adapter."""
        ...


@dataclass(frozen=True)
class EngineMethod:
    """The engine's half of a method."""

    adapter: type[Any]
    """An `Adapter` class; its `attach` adds it to a model."""
    spelling: Spelling


_LORA = EngineMethod(LoraAdapter, peft_lora)
ENGINE_METHODS: dict[str, EngineMethod] = {
    "lora": _LORA,
    "qlora": _LORA,
    "prompt_tuning": EngineMethod(PromptTuningAdapter, peft_prompt_tuning),
    "prefix_tuning": EngineMethod(PrefixTuningAdapter, peft_prefix_tuning),
}


def attach_method(model: PreTrainedModel, method: Method, *, seed: int = 0) -> Adapter:
    """Attach the method that the spec names."""
    adapter: Adapter = ENGINE_METHODS[method.type].adapter.attach(model, method, seed=seed)
    return adapter


def spelling_of(adapter: Adapter) -> Spelling:
    """Return PEFT's format for this adapter."""
    return ENGINE_METHODS[adapter.method.type].spelling
