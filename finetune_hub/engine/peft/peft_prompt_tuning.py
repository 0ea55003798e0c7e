"""Prompt tuning as PEFT spells it: one tensor, `prompt_embeddings` (P, H).

Shape letters:  P virtual tokens,  H hidden.
Source: PEFT 0.21, `peft/peft_model.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.adapters.prompt_tuning import PromptTuningAdapter
from finetune_hub.engine.adapters.virtual_tokens import VirtualTokensAdapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.methods.virtual_tokens import PromptTuningMethod

PEFT_TYPE = "PROMPT_TUNING"
KEY = "prompt_embeddings"


def tensors_of(adapter: PromptTuningAdapter) -> dict[str, Tensor]:
    """The adapter's tensor under PEFT's key."""
    return {KEY: adapter.prompt_embeddings}


def config_of(adapter: PromptTuningAdapter) -> dict[str, Any]:
    """The adapter's settings under PEFT's names."""
    return common_config(adapter) | {
        "num_attention_heads": getattr(adapter.model.config.get_text_config(), "num_attention_heads", 1),
        "peft_type": PEFT_TYPE,
        # How it started is not needed any more, and PEFT would want a tokenizer for it.
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "token_dim": adapter.prompt_embeddings.shape[1],
        "tokenizer_name_or_path": None,
    }


def common_config(adapter: VirtualTokensAdapter) -> dict[str, Any]:
    """What PEFT wants to know of all virtual tokens."""
    return {
        "num_layers": adapter.model.config.get_text_config().num_hidden_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": adapter.method.virtual_tokens,
    }


def read_method(config: dict[str, Any], _: dict[str, Tensor]) -> PromptTuningMethod:
    """The method that PEFT's settings describe."""
    require_one_submodule(config)
    return PromptTuningMethod(virtual_tokens=config["num_virtual_tokens"])


def require_one_submodule(config: dict[str, Any]) -> None:
    """
    Raises:
        BadConfig: its virtual tokens are for an encoder and a decoder.
    """
    if config.get("num_transformer_submodules", 1) not in (1, None):
        raise BadConfig("The adapter is made for an encoder and a decoder.", "Use one made for a causal model.")


@torch.no_grad()
def load(adapter: PromptTuningAdapter, tensors: dict[str, Tensor]) -> None:
    """Copy the tensor, which was found to fit, into the adapter."""
    adapter.prompt_embeddings.copy_(tensors[KEY])
