"""Prompt tuning in PEFT's format: one tensor, `prompt_embeddings` (P, H).

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
    """Return the adapter's tensor with PEFT's key."""
    return {KEY: adapter.prompt_embeddings}


def config_of(adapter: PromptTuningAdapter) -> dict[str, Any]:
    """Return the adapter's settings with PEFT's names."""
    return common_config(adapter) | {
        "num_attention_heads": getattr(adapter.model.config.get_text_config(), "num_attention_heads", 1),
        "peft_type": PEFT_TYPE,
        # The initialisation is no longer needed, and PEFT would require a tokenizer for it.
        "prompt_tuning_init": "RANDOM",
        "prompt_tuning_init_text": None,
        "token_dim": adapter.prompt_embeddings.shape[1],
        "tokenizer_name_or_path": None,
    }


def common_config(adapter: VirtualTokensAdapter) -> dict[str, Any]:
    """Return the settings that PEFT requires for all virtual tokens."""
    return {
        "num_layers": adapter.model.config.get_text_config().num_hidden_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": adapter.method.virtual_tokens,
    }


def read_method(config: dict[str, Any], _: dict[str, Tensor]) -> PromptTuningMethod:
    """Read the method from PEFT's settings."""
    require_one_submodule(config)
    return PromptTuningMethod(virtual_tokens=config["num_virtual_tokens"])


def require_one_submodule(config: dict[str, Any]) -> None:
    """
    Raises:
        BadConfig: the adapter is for an encoder-decoder model.
    """
    if config.get("num_transformer_submodules", 1) not in (1, None):
        raise BadConfig("The adapter is for an encoder-decoder model.", "Use one for a causal language model.")


@torch.no_grad()
def load(adapter: PromptTuningAdapter, tensors: dict[str, Tensor]) -> None:
    """Copy the tensor, whose key and shape match, into the adapter."""
    adapter.prompt_embeddings.copy_(tensors[KEY])
