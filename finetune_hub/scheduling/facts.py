"""The facts of a base model, read from its folder as an import does, without transformers."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from finetune_hub.artifacts.safetensors_header import read_tensors
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.shape import ModelFacts

BYTES_OF = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
_STORED_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def read_facts(folder: Path) -> ModelFacts:
    """Read a model folder's facts from its config.json and the headers of its safetensors files.

    Raises:
        Refusal: `unreadable_base_model`: not a model folder, or its config uses other names for its sizes.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config) | {"architectures": config.get("architectures")}
        tensors = [tensor for path in sorted(folder.glob("*.safetensors")) for tensor in read_tensors(path).values()]
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return ModelFacts(
            architecture=(config["architectures"] or ["unknown"])[0],
            model_type=config.get("model_type", "unknown"),
            parameter_count=sum(prod(tensor["shape"]) for tensor in tensors),
            layers=config["num_hidden_layers"],
            hidden_size=hidden,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            intermediate_size=config.get("intermediate_size"),
            context_length=config.get("max_position_embeddings"),
            vocabulary_size=config["vocab_size"],
            tied_head=bool(config.get("tie_word_embeddings", False)),
            dtype="+".join(sorted({_STORED_NAMES.get(tensor["dtype"], tensor["dtype"].lower()) for tensor in tensors})),
            size_bytes=sum(path.stat().st_size for path in folder.glob("*.safetensors")),
            chat_template_sha256=None,
            license=None,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as unreadable:
        raise Refusal(
            "unreadable_base_model",
            f"{folder} cannot be read as a base model ({type(unreadable).__name__}: {unreadable}).",
            "Choose a folder with config.json and *.safetensors, as written by `save_pretrained`.",
        ) from unreadable
