"""The settings of each method, for Python programs: `from finetune_hub.spec.methods import LoraMethod`."""

from finetune_hub.spec.methods.low_rank import LoraMethod, QloraMethod
from finetune_hub.spec.methods.method import Method
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod, PromptTuningMethod

__all__ = ["LoraMethod", "Method", "PrefixTuningMethod", "PromptTuningMethod", "QloraMethod"]
