"""The methods of fine-tuning, each with its own settings; `type` tells them apart.

A method also states the learning rate that it likes: a spec that names none takes it from here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ModelWrapValidatorHandler, WrapValidator, model_validator

from finetune_hub.spec.part import Part


def _check_pattern(value: str | list[str] | None) -> str | list[str] | None:
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as broken:
            raise ValueError(f"{value!r} is not a regular expression: {broken}") from broken
    return value


Modules = Annotated[str | list[str], AfterValidator(_check_pattern)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]


class LowRankMethod(Part):
    """What LoRA and QLoRA share."""

    default_learning_rate: ClassVar[float] = 2e-4

    type: str
    rank: int = Field(
        16, ge=1, le=512, description="Width of the two matrices; memory and trainable parameters grow with it."
    )
    alpha: float = Field(32.0, gt=0, le=4096, description="The update is scaled by alpha / rank.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the adapter's inputs dropped while training; 0 is fastest."
    )
    target_modules: Modules = Field(
        "all-linear",
        description="Which layers get an adapter: `all-linear` (all but the output head), names that their paths end "
        "with, or a regular expression for the whole path. Embeddings are named.",
    )
    exclude_modules: Modules | None = Field(
        None, description="Layers left alone although targeted: names, or a regular expression for the whole path."
    )
    target_parameters: list[str] | None = Field(
        None, description="Parameters of no linear layer, by the end of their path: a mixture's experts, its router."
    )
    rank_pattern: dict[Pattern, Annotated[int, Field(ge=1, le=512)]] | None = Field(
        None, description="Another rank for the layers whose path ends with the key, a regular expression."
    )
    alpha_pattern: dict[Pattern, Annotated[float, Field(gt=0, le=4096)]] | None = Field(
        None, description="Another alpha for the layers whose path ends with the key, a regular expression."
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha / √rank (rsLoRA, arXiv:2312.03732), so that high ranks keep learning."
    )
    use_dora: bool = Field(
        False,
        description="Learn each output's magnitude apart from its direction (DoRA, arXiv:2402.09353): slower, "
        "often better at low rank; vLLM cannot serve it.",
    )
    init_weights: Literal["default", "gaussian", "pissa", "olora"] = Field(
        "default",
        description="How A and B start: uniform A and zero B, normal A and zero B, the weight's principal components "
        "(PiSSA, arXiv:2404.02948), or an orthonormal basis of its outputs (OLoRA, arXiv:2406.01775). The last two are "
        "saved as plain LoRA of twice the rank.",
    )
    learning_rate_ratio: float = Field(
        1.0, gt=0, le=1024, description="B learns so many times faster than A (LoRA+, arXiv:2402.12354; 16 is usual)."
    )

    @model_validator(mode="after")
    def _inits_that_fit(self) -> LowRankMethod:
        if self.starts_from_weight and self.use_dora:
            raise ValueError(
                f"`init_weights: {self.init_weights}` and `use_dora` exclude each other: "
                "both split the weight, in two ways"
            )
        return self

    @property
    def starts_from_weight(self) -> bool:
        """Whether A and B start as a part of the frozen weight, which is taken off again beside it."""
        return self.init_weights in ("pissa", "olora")

    @property
    def saved_rank_factor(self) -> int:
        """Ranks as saved, in units of those trained: what A and B started from is saved beside them."""
        return 2 if self.starts_from_weight else 1


class LoraMethod(LowRankMethod):
    """LoRA (arXiv:2106.09685): two thin matrices beside each frozen layer."""

    type: Literal["lora"] = "lora"


class QloraMethod(LowRankMethod):
    """QLoRA (arXiv:2305.14314): LoRA in float32 over a base whose linear layers are kept in 4 or 8 bits."""

    type: Literal["qlora"] = "qlora"
    quantization: Literal["nf4", "fp4", "int8"] = Field(
        "nf4", description="How the frozen weights are kept; nf4 suits weights best, int8 takes twice its memory."
    )
    double_quantization: bool = Field(
        True, description="Quantise the 4-bit blocks' scales too: saves 0.4 bits of each weight."
    )


class VirtualTokensMethod(Part):
    """What prompt and prefix tuning share."""

    type: str
    virtual_tokens: int = Field(
        32, ge=1, le=1024, description="What is learned stands in front of every row; each costs a token of context."
    )
    init: Literal["sample_vocab", "text", "random"] = Field(
        "sample_vocab", description="Start from tokens drawn from the vocabulary, from `init_text`, or from noise."
    )
    init_text: str | None = Field(None, min_length=1, description="Repeated or cut to `virtual_tokens` tokens.")

    @model_validator(mode="after")
    def _text_where_wanted(self) -> VirtualTokensMethod:
        if (self.init == "text") != (self.init_text is not None):
            raise ValueError("`init_text` belongs to `init: text`: give both or neither")
        return self


class PromptTuningMethod(VirtualTokensMethod):
    """Prompt tuning (arXiv:2104.08691): learned embeddings in front of every row."""

    default_learning_rate: ClassVar[float] = 1e-2

    type: Literal["prompt_tuning"] = "prompt_tuning"


class PrefixTuningMethod(VirtualTokensMethod):
    """Prefix tuning (arXiv:2101.00190): learned keys and values in front of every row, in each layer."""

    default_learning_rate: ClassVar[float] = 1e-2

    type: Literal["prefix_tuning"] = "prefix_tuning"
    prefix_projection: bool = Field(
        False, description="Make the prefix by a small network, which is dropped when the adapter is saved."
    )
    projection_hidden_size: int = Field(512, ge=1, le=65536, description="Width of that network.")


METHODS: dict[str, type[LoraMethod | QloraMethod | PromptTuningMethod | PrefixTuningMethod]] = {
    "lora": LoraMethod,
    "qlora": QloraMethod,
    "prompt_tuning": PromptTuningMethod,
    "prefix_tuning": PrefixTuningMethod,
}


def method_type(document: Any) -> type[LoraMethod | QloraMethod | PromptTuningMethod | PrefixTuningMethod] | None:
    """The model for a document's `type`, LoRA when it has none; None: there is no such method."""
    name = document.get("type", "lora") if isinstance(document, dict) else getattr(document, "type", None)
    return METHODS.get(name) if isinstance(name, str) else None


def _choose(value: Any, parse: ModelWrapValidatorHandler[Any]) -> Any:
    """Errors say `method.rank`; a plain union would say `method.lora.rank`, which no recipe has."""
    chosen = method_type(value)
    return parse(value) if chosen is None else chosen.model_validate(value)


Method = Annotated[
    LoraMethod | QloraMethod | PromptTuningMethod | PrefixTuningMethod,
    Field(discriminator="type"),
    WrapValidator(_choose),
]
