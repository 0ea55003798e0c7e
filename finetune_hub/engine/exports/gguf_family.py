"""The model families with GGUF export: tensor names, row order, hyperparameters.

    llama, mistral   queries and keys: llama.cpp rotates adjacent rows where transformers rotates halves of a head, so
                     the rows of W, its bias and LoRA's B are reordered; A is unchanged
    gemma 1 to 3     norms multiply by 1 + w; the file stores 1 + w
    qwen 2 and 3     unchanged

Source: llama.cpp, `conversion/{llama,qwen,gemma}.py` and `conversion/base.py`, read in October 2026.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, TensorNameMap, get_tensor_name_map

from finetune_hub.engine.errors import BadConfig

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Family:
    """How an architecture is written in GGUF."""

    architecture: str
    """llama.cpp's name for it."""
    rotates_neighbours: bool = False
    norm_offset: float = 0.0


FAMILIES = {
    "llama": Family("llama", rotates_neighbours=True),
    "mistral": Family("llama", rotates_neighbours=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma", norm_offset=1.0),
    "gemma2": Family("gemma2", norm_offset=1.0),
    "gemma3_text": Family("gemma3", norm_offset=1.0),
}
# Layer counts of Gemma models whose attention scale differs from the head size; llama.cpp checks the count too.
_LARGE_GEMMA_LAYERS = {"gemma2": 46, "gemma3_text": 62}


class GgufSpelling:
    """Converts one model's tensors to llama.cpp's names and order, and back.

    Raises:
        BadConfig: the model's family is not supported, or it differs from its family in a way that GGUF cannot express.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        if config.model_type not in FAMILIES:
            raise BadConfig(
                f"GGUF export supports the llama, mistral, qwen2, qwen3 and gemma families; this model is of type "
                f"{config.model_type}.",
                "Export the merged model as safetensors (`merged`) and convert it with llama.cpp's own tools.",
            )
        self.family = FAMILIES[config.model_type]
        _check_expressible(config)
        architectures = {name: key for key, name in MODEL_ARCH_NAMES.items()}
        self._names: TensorNameMap = get_tensor_name_map(
            architectures[self.family.architecture], config.num_hidden_layers
        )

    def name(self, key: str) -> str:
        """Return llama.cpp's name for a module of the model, or for its weight or bias."""
        name = self._names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise BadConfig(
                f"llama.cpp has no tensor for {key}.", "Export the merged model as safetensors (`merged`) instead."
            )
        return name

    def to_gguf(self, key: str, tensor: Array) -> Array:
        """Convert a tensor of the model, or B of a module's adapter, to its form in the file."""
        rows = self._row_order(key, len(tensor))
        tensor = tensor if rows is None else tensor[rows]
        return tensor + np.float32(self.family.norm_offset) if key.endswith("norm.weight") else tensor

    def from_gguf(self, key: str, tensor: Array) -> Array:
        """Convert a tensor of the file to its form in the model."""
        if (rows := self._row_order(key, len(tensor))) is not None:
            ordered = np.empty_like(tensor)
            ordered[rows] = tensor
            return ordered
        return tensor - np.float32(self.family.norm_offset) if key.endswith("norm.weight") else tensor

    def _row_order(self, key: str, rows: int) -> Array | None:
        """Return the row order of queries and keys: (heads, 2 halves, rotations) becomes (heads, rotations, 2)."""
        module = key.removesuffix(".weight").removesuffix(".bias")
        if not self.family.rotates_neighbours or not module.endswith((".q_proj", ".k_proj")):
            return None
        heads = self.config.num_attention_heads if module.endswith(".q_proj") else self.config.num_key_value_heads
        order: Array = np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(rows)
        return order

    def add_hyperparameters(self, writer: GGUFWriter) -> None:
        """Write the model's hyperparameters for llama.cpp."""
        config, rope = self.config, rope_of(self.config)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(head_dim(config))
        writer.add_value_length(head_dim(config))
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_rope_dimension_count(head_dim(config))
        writer.add_rope_freq_base(rope["rope_theta"])
        _ROPE_TYPES[rope.get("rope_type", "default")](writer, rope)
        if self.family.architecture in ("gemma2", "gemma3"):
            writer.add_sliding_window(config.sliding_window)
            if config.attn_logit_softcapping:
                writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
            if config.final_logit_softcapping:
                writer.add_final_logit_softcapping(config.final_logit_softcapping)
        if self.family.architecture == "gemma3":
            writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])

    def rope_factors(self) -> Array | None:
        """Return Llama 3's frequency divisors (head_dim / 2), a tensor of the file; None for other scalings.

        Source: transformers, `modeling_rope_utils.py`, `_compute_llama3_parameters`.
        """
        rope = rope_of(self.config)
        if rope.get("rope_type") != "llama3":
            return None
        size = head_dim(self.config)
        frequencies = rope["rope_theta"] ** -(np.arange(0, size, 2) / size)
        turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # In the original context.
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        share = np.clip((turns - low) / (high - low), 0, 1)
        factors: Array = (1 / ((1 - share) / rope["factor"] + share)).astype(np.float32)
        return factors


def head_dim(config: Any) -> int:
    """Return the size of one head."""
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return size


def rope_of(config: Any) -> dict[str, Any]:
    """Return the RoPE parameters of the layers with full attention."""
    parameters = config.rope_parameters
    return dict(parameters.get("full_attention", parameters))


def _add_linear(writer: GGUFWriter, rope: dict[str, Any]) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(rope["factor"])


def _add_yarn(writer: GGUFWriter, rope: dict[str, Any]) -> None:
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


_ROPE_TYPES: dict[str, Callable[[GGUFWriter, dict[str, Any]], None]] = {
    "default": lambda _writer, _rope: None,
    "llama3": lambda _writer, _rope: None,  # Stored as a tensor: see `rope_factors`.
    "linear": _add_linear,
    "yarn": _add_yarn,
}


def _check_expressible(config: Any) -> None:
    """Refuse models that llama.cpp would silently compute differently."""
    rope_type = rope_of(config).get("rope_type", "default")
    problem = None
    if rope_type not in _ROPE_TYPES:
        problem = f"its positions are scaled by {rope_type!r}"
    elif config.model_type in _LARGE_GEMMA_LAYERS:
        large = config.num_hidden_layers == _LARGE_GEMMA_LAYERS[config.model_type]
        expected = config.hidden_size / config.num_attention_heads if large else head_dim(config)
        if config.query_pre_attn_scalar != expected:
            problem = f"its attention is scaled by {config.query_pre_attn_scalar} instead of {expected:g}"
        every = 2 if config.model_type == "gemma2" else 6
        kinds = ["full" if (layer + 1) % every == 0 else "sliding" for layer in range(config.num_hidden_layers)]
        if [kind.removesuffix("_attention") for kind in config.layer_types] != kinds:
            problem = f"its layers do not alternate as in {config.model_type}"
    elif "sliding_attention" in (getattr(config, "layer_types", None) or []) and config.model_type != "mistral":
        problem = "some of its layers use sliding-window attention"
    if problem is not None:
        raise BadConfig(
            f"llama.cpp cannot compute this model: {problem}.",
            "Export the merged model as safetensors (`merged`) instead.",
        )
