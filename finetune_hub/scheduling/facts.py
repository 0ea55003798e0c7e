"""What planning knows of a base model: the matrices of one layer, told from facts that need no weights.

    parameters = embeddings + layers · (q + k + v + o + MLP) + rest     the rest: norms, biases, a few in a thousand

`ModelFacts` is what an import stores. Here its numbers become matrices, by the count that they must add up to: a gated
MLP has three, a plain one two. A model that adds up to neither (a mixture of experts, Mamba) is planned roughly, and
says so.
Shape letters:  H hidden,  I intermediate,  Q = heads · head_dim,  K = kv_heads · head_dim,  V vocabulary.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.run import ModelFacts

BYTES_OF = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
_STORED_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
_TOLERANCE = 0.03  # Norms, biases and positions are fewer than that.


@dataclass(frozen=True)
class Linear:
    """One linear layer of the first decoder layer, called as Llama calls it."""

    path: str
    out_features: int
    in_features: int

    @property
    def parameters(self) -> int:
        return self.out_features * self.in_features


@dataclass(frozen=True)
class Shape:
    """A base model as matrices."""

    facts: ModelFacts

    @property
    def hidden(self) -> int:
        return self.facts.hidden_size

    @property
    def intermediate(self) -> int:
        return self.facts.intermediate_size or 4 * self.hidden  # GPT-2's config leaves it out.

    @property
    def query(self) -> int:
        return self.facts.heads * self.facts.head_dim

    @property
    def keys(self) -> int:
        return self.facts.kv_heads * self.facts.head_dim

    @cached_property
    def is_gated(self) -> bool:
        """Whether the MLP has a gate: whichever count is nearer to the model's."""
        return abs(self._expected(3) - self.facts.parameter_count) < abs(self._expected(2) - self.facts.parameter_count)

    @cached_property
    def is_understood(self) -> bool:
        """Whether the matrices add up to the model's parameters."""
        expected = self._expected(3 if self.is_gated else 2)
        return abs(expected / self.facts.parameter_count - 1) < _TOLERANCE

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """Of one layer."""
        h, i, q, k = self.hidden, self.intermediate, self.query, self.keys
        attention = [("q_proj", q, h), ("k_proj", k, h), ("v_proj", k, h), ("o_proj", h, q)]
        gate = [("gate_proj", i, h)] if self.is_gated else []
        mlp = [*gate, ("up_proj", i, h), ("down_proj", h, i)]
        return tuple(
            Linear(f"model.layers.0.{block}.{name}", out_features, in_features)
            for block, layers in (("self_attn", attention), ("mlp", mlp))
            for name, out_features, in_features in layers
        )

    @property
    def linear_parameters(self) -> int:
        """Of all layers: what quantisation packs. A mixture keeps its experts as they are."""
        return min(
            self.facts.layers * sum(linear.parameters for linear in self.linears),
            self.facts.parameter_count - self._embeddings(),
        )

    def _expected(self, mlp_matrices: int) -> int:
        attention = 2 * self.hidden * (self.query + self.keys)
        return self._embeddings() + self.facts.layers * (attention + mlp_matrices * self.hidden * self.intermediate)

    def _embeddings(self) -> int:
        return self.facts.vocabulary_size * self.hidden * (1 if self.facts.tied_head else 2)


def read_facts(folder: Path) -> ModelFacts:
    """The facts of a model folder, from its config.json and the headers of its safetensors, without transformers.

    Raises:
        Refusal: `unreadable_base_model`: it is no model folder, or of a kind that names its sizes otherwise.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config) | {"architectures": config.get("architectures")}
        tensors = [tensor for path in sorted(folder.glob("*.safetensors")) for tensor in _header_of(path)]
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
            "Give a folder with config.json and *.safetensors, as `save_pretrained` writes it.",
        ) from unreadable


def _header_of(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        header: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return list(header.values())
