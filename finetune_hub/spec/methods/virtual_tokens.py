"""Prompt and prefix tuning: learned tokens before every row, with an unchanged base model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from finetune_hub.spec.methods.method import Method, SavedNumbers
from finetune_hub.spec.shape import Shape


class VirtualTokensMethod(Method):
    """The settings that prompt and prefix tuning share."""

    default_learning_rate: ClassVar[float] = 1e-2
    first_fields: ClassVar[tuple[str, ...]] = ("virtual_tokens",)

    virtual_tokens: int = Field(
        32, ge=1, le=1024, description="Number of learned tokens before every row; each uses one token of context."
    )
    init: Literal["sample_vocab", "text", "random"] = Field(
        "sample_vocab", description="Start from tokens drawn from the vocabulary, from `init_text`, or from noise."
    )
    init_text: str | None = Field(None, min_length=1, description="Repeated or truncated to `virtual_tokens` tokens.")

    @model_validator(mode="after")
    def _text_where_wanted(self) -> VirtualTokensMethod:
        if (self.init == "text") != (self.init_text is not None):
            raise ValueError("`init_text` needs `init: text`: give both or neither")
        return self

    @property
    def obstacle_to_serving(self) -> str:
        return "It serves only LoRA, not virtual tokens: use PEFT, or train with LoRA."


class PromptTuningMethod(VirtualTokensMethod):
    """Prompt tuning (arXiv:2104.08691): learned embeddings before every row."""

    type: Literal["prompt_tuning"] = "prompt_tuning"

    def trained_parameters(self, shape: Shape) -> int:
        return self.virtual_tokens * shape.hidden

    @property
    def tokens_before_each_row(self) -> int:
        return self.virtual_tokens


class PrefixTuningMethod(VirtualTokensMethod):
    """Prefix tuning (arXiv:2101.00190): learned keys and values before every row, in each layer."""

    type: Literal["prefix_tuning"] = "prefix_tuning"
    prefix_projection: bool = Field(
        False, description="Compute the prefix with a small network, which is dropped when the adapter is saved."
    )
    projection_hidden_size: int = Field(512, ge=1, le=65536, description="Width of that network.")

    def trained_parameters(self, shape: Shape) -> int:
        width = 2 * shape.facts.layers * shape.keys
        if not self.prefix_projection:
            return self.virtual_tokens * width
        inner = self.projection_hidden_size
        return self.virtual_tokens * shape.keys + inner * (shape.keys + 1) + width * (inner + 1)

    def saved_numbers(self, shape: Shape, *, compiled: bool) -> SavedNumbers:
        """Count the attention's output too, which the fused attention keeps."""
        return SavedNumbers(super().saved_numbers(shape, compiled=compiled).numbers + shape.query)
