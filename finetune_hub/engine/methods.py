"""The methods that the engine can train: for each of `spec.methods`, its tensors, and how PEFT spells them.

A new one is a file in `adapters/`, one in `peft/`, and a line here.
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
    """How PEFT writes an adapter down: a module of `peft/`."""

    PEFT_TYPE: str

    def tensors_of(self, adapter: Any) -> dict[str, Tensor]:
        """The adapter's tensors under PEFT's keys."""
        ...

    def config_of(self, adapter: Any) -> dict[str, Any]:
        """The adapter's settings under PEFT's names."""
        ...

    def read_method(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> Method:
        """
        Raises:
            BadConfig: the engine does not have what the settings describe.
        """
        ...

    def load(self, adapter: Any, tensors: dict[str, Tensor]) -> None:
        """Copy the tensors, which were found to fit, into the adapter."""
        ...


@dataclass(frozen=True)
class EngineMethod:
    """A method's half in the engine."""

    adapter: type[Any]
    """An `Adapter`; its `attach` puts it on a model."""
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
    """How PEFT writes this adapter down."""
    return ENGINE_METHODS[adapter.method.type].spelling
