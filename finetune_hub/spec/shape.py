"""A base model's matrices, derived from its facts without reading weights.

    parameters = embeddings + layers · (q + k + v + o + MLP) + rest     rest: norms, biases; a few in a thousand

An import stores `ModelFacts`. Here its numbers become matrices, checked against the parameter count: a gated MLP has
three, a plain one two. A model that matches neither (a mixture of experts, Mamba) is planned roughly, and its plan
says so.
Shape letters:  H hidden,  I intermediate,  Q = heads · head_dim,  K = kv_heads · head_dim,  V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from pydantic import Field

from finetune_hub.spec.part import Part

_TOLERANCE = 0.03  # More than norms, biases and positions add up to.


class ModelFacts(Part):
    """Facts about a base model for memory planning, chat and serving."""

    architecture: str = Field(description="Transformers' model class.")
    model_type: str
    parameter_count: int
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int | None
    context_length: int | None
    vocabulary_size: int
    tied_head: bool = Field(description="The output head is the embedding table.")
    dtype: str = Field(description="Of the stored weights.")
    size_bytes: int = Field(description="Of the weight files.")
    chat_template_sha256: str | None
    license: str | None


@dataclass(frozen=True)
class Linear:
    """One linear layer of the first decoder layer, with Llama's name for it."""

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
        return self.facts.intermediate_size or 4 * self.hidden  # Missing in GPT-2's config.

    @property
    def query(self) -> int:
        return self.facts.heads * self.facts.head_dim

    @property
    def keys(self) -> int:
        return self.facts.kv_heads * self.facts.head_dim

    @cached_property
    def is_gated(self) -> bool:
        """Whether the MLP has a gate, by which parameter count is closer to the model's."""
        return abs(self._expected(3) - self.facts.parameter_count) < abs(self._expected(2) - self.facts.parameter_count)

    @property
    def mlp_products(self) -> int:
        """Tensors of the MLP's width that the plain graph keeps for backward: gate, up and their product, or one."""
        return 3 if self.is_gated else 1

    @cached_property
    def is_understood(self) -> bool:
        """Whether the matrices add up to the model's parameter count."""
        expected = self._expected(3 if self.is_gated else 2)
        return abs(expected / self.facts.parameter_count - 1) < _TOLERANCE

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of one decoder layer."""
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
        """The parameters that quantisation packs, over all layers. Experts of a mixture are not packed."""
        return min(
            self.facts.layers * sum(linear.parameters for linear in self.linears),
            self.facts.parameter_count - self._embeddings(),
        )

    def _expected(self, mlp_matrices: int) -> int:
        attention = 2 * self.hidden * (self.query + self.keys)
        return self._embeddings() + self.facts.layers * (attention + mlp_matrices * self.hidden * self.intermediate)

    def _embeddings(self) -> int:
        return self.facts.vocabulary_size * self.hidden * (1 if self.facts.tied_head else 2)
