"""Prompt and prefix tuning as PEFT spells them: one tensor, `prompt_embeddings`.

    PROMPT_TUNING   (P, H)
    PREFIX_TUNING   (P, L·2·K·D): of each layer the key, then the value. PEFT's `token_dim` is K·D and its
                    `num_attention_heads` is K, also where queries have more heads; a projection is written flattened

Shape letters:  P virtual tokens,  H hidden,  L layers,  K key heads,  D head_dim.
Source: PEFT 0.21, `peft/tuners/prefix_tuning/model.py` and `peft/peft_model.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.adapters.prefix_tuning import PrefixTuningAdapter
from finetune_hub.engine.adapters.prompt_tuning import PromptTuningAdapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.methods import PrefixTuningMethod, PromptTuningMethod

_KEY = "prompt_embeddings"


def tensors_of(adapter: PromptTuningAdapter | PrefixTuningAdapter) -> dict[str, Tensor]:
    """The adapter's tensor under PEFT's key."""
    return {_KEY: adapter.prompt_embeddings if isinstance(adapter, PromptTuningAdapter) else adapter.prefix()}


def config_of(adapter: PromptTuningAdapter | PrefixTuningAdapter) -> dict[str, Any]:
    """The adapter's settings under PEFT's names."""
    text = adapter.model.config.get_text_config()
    common = {
        "num_layers": text.num_hidden_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": adapter.method.virtual_tokens,
    }
    if isinstance(adapter, PromptTuningAdapter):
        return common | {
            "num_attention_heads": getattr(text, "num_attention_heads", 1),
            "peft_type": "PROMPT_TUNING",
            # How it started is not needed any more, and PEFT would want a tokenizer for it.
            "prompt_tuning_init": "RANDOM",
            "prompt_tuning_init_text": None,
            "token_dim": adapter.prompt_embeddings.shape[1],
            "tokenizer_name_or_path": None,
        }
    return common | {
        "encoder_hidden_size": adapter.method.projection_hidden_size,
        "num_attention_heads": adapter.shape.heads,
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": adapter.method.prefix_projection,
        "token_dim": adapter.shape.token_dim,
    }


def read_prompt(config: dict[str, Any], _: dict[str, Tensor]) -> PromptTuningMethod:
    """The method that PEFT's settings describe."""
    _check_submodules(config)
    return PromptTuningMethod(virtual_tokens=config["num_virtual_tokens"])


def read_prefix(config: dict[str, Any], _: dict[str, Tensor]) -> PrefixTuningMethod:
    """The method that PEFT's settings describe: a projection has become its result."""
    _check_submodules(config)
    return PrefixTuningMethod(virtual_tokens=config["num_virtual_tokens"])


@torch.no_grad()
def load(adapter: PromptTuningAdapter | PrefixTuningAdapter, tensors: dict[str, Tensor]) -> None:
    """Copy the tensor, which was found to fit, into the adapter."""
    if isinstance(adapter, PrefixTuningAdapter) and adapter.start is not None:
        raise BadConfig("The network of a projected prefix is not in these files.", "Resume from a checkpoint.")
    tensors_of(adapter)[_KEY].copy_(tensors[_KEY])


def _check_submodules(config: dict[str, Any]) -> None:
    if config.get("num_transformer_submodules", 1) not in (1, None):
        raise BadConfig("The adapter is made for an encoder and a decoder.", "Use one made for a causal model.")
