"""The methods of fine-tuning, by `type`. To add one, add a module to this package and a line here."""

from __future__ import annotations

from typing import Annotated, Any

from finetune_hub.spec.methods.low_rank import LoraMethod, QloraMethod
from finetune_hub.spec.methods.method import Method
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod, PromptTuningMethod
from finetune_hub.spec.one_of import OneOf

METHODS: dict[str, type[Method]] = {
    "lora": LoraMethod,
    "qlora": QloraMethod,
    "prompt_tuning": PromptTuningMethod,
    "prefix_tuning": PrefixTuningMethod,
}
_ONE_OF = OneOf(METHODS, usual="lora")
AnyMethod = Annotated[Method, _ONE_OF]


def method_type(document: Any) -> type[Method] | None:
    """Return the model for a document's `type` (LoRA if it has none); None if the method is unknown."""
    return _ONE_OF.model_of(document)
