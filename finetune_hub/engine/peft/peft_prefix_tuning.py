"""Prefix tuning in PEFT's format: one tensor, `prompt_embeddings` (P, L·2·K·D), with each layer's key, then value.

PEFT's `token_dim` is K·D and its `num_attention_heads` is K, even if queries have more heads; a projected prefix is
written as its result.
Shape letters:  P virtual tokens,  L layers,  K key heads,  D head_dim.
Source: PEFT 0.21, `peft/tuners/prefix_tuning/model.py` and `peft/peft_model.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.adapters.prefix_tuning import PrefixTuningAdapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.peft.peft_prompt_tuning import KEY, common_config, require_one_submodule
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod

PEFT_TYPE = "PREFIX_TUNING"


def tensors_of(adapter: PrefixTuningAdapter) -> dict[str, Tensor]:
    """Return the adapter's tensor with PEFT's key."""
    return {KEY: adapter.prefix()}


def config_of(adapter: PrefixTuningAdapter) -> dict[str, Any]:
    """Return the adapter's settings with PEFT's names."""
    return common_config(adapter) | {
        "encoder_hidden_size": adapter.method.projection_hidden_size,
        "num_attention_heads": adapter.shape.heads,
        "peft_type": PEFT_TYPE,
        "prefix_projection": adapter.method.prefix_projection,
        "token_dim": adapter.shape.token_dim,
    }


def read_method(config: dict[str, Any], _: dict[str, Tensor]) -> PrefixTuningMethod:
    """Read the method from PEFT's settings; a projection is stored as its result."""
    require_one_submodule(config)
    return PrefixTuningMethod(virtual_tokens=config["num_virtual_tokens"])


@torch.no_grad()
def load(adapter: PrefixTuningAdapter, tensors: dict[str, Tensor]) -> None:
    """Copy the tensor, whose key and shape match, into the adapter."""
    if adapter.start is not None:
        raise BadConfig("These files do not contain the network of a projected prefix.", "Resume from a checkpoint.")
    adapter.prefix().copy_(tensors[KEY])
