"""LoRA and QLoRA: two thin matrices added to each frozen layer.

What the planner needs: values that one layer saves per token (the rest is in `scheduling.memory`):
    MLP              2I                 gate and up: the fused kernel recomputes the rest
                     3I or I, and I     the plain graph, gated or not: with dropout, DoRA or torch.compile, or if only
                                        part of an MLP is adapted; the last I if its output layer is adapted
    inputs           H, Q, H            of query, key and value; of the attention's output; of gate and up, if adapted
    LoRA             R per adapted layer;  with DoRA also its outputs;  with dropout its inputs and as large a mask
Layers have Llama's names. If no name matches (a model with other layer names), all layers are counted: the plan
overestimates rather than underestimates.
Shape letters:  H hidden,  I intermediate,  Q query,  R rank.
Sources: Hu et al., arXiv:2106.09685; Dettmers et al., arXiv:2305.14314, section 3 (4 bits, and 0.127 for scales).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

import regex
from pydantic import AfterValidator, Field, model_validator

from finetune_hub.spec.methods.method import Method, SavedNumbers, Saving
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.shape import Linear, Shape

_EMBEDDING_NAMES = {"wte", "wpe"}
_BITS = {"nf4": 4.0, "fp4": 4.0, "int8": 8.0}
_SCALE_BITS = {True: 0.127, False: 0.5}  # With and without double quantisation.
_INT8_SCALE_BITS = 0.02  # One float32 per row.
_SMALL_RANK = 8
MATCH_SECONDS = 0.1
SHOWN_PATTERN = 80  # Characters of a pattern that a message shows.


def _check_pattern(value: str | list[str] | None) -> str | list[str] | None:
    if isinstance(value, str):
        try:
            re.compile(value)
        except (re.error, OverflowError, RecursionError) as broken:
            raise ValueError(f"{_shown(value)!r} is not a regular expression: {broken}") from broken
    return value


def _shown(pattern: str) -> str:
    return pattern if len(pattern) <= SHOWN_PATTERN else f"{pattern[:SHOWN_PATTERN]}…"


Modules = Annotated[str | list[str], AfterValidator(_check_pattern)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]


class LowRankMethod(Method):
    """The settings that LoRA and QLoRA share."""

    default_learning_rate: ClassVar[float] = 2e-4
    quantised_type: ClassVar[str] = "qlora"
    first_fields: ClassVar[tuple[str, ...]] = ("rank", "alpha")

    rank: int = Field(
        16, ge=1, le=512, description="Rank of the two matrices; memory and trainable parameters grow with it."
    )
    alpha: float = Field(32.0, gt=0, le=4096, description="The update is scaled by alpha / rank.")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the adapter's inputs dropped during training; 0 is fastest."
    )
    target_modules: Modules = Field(
        "all-linear",
        description="Which layers get an adapter: `all-linear` (all but the output head), path endings, or a regular "
        "expression for the whole path. Name embeddings to adapt them.",
    )
    exclude_modules: Modules | None = Field(
        None,
        description="Layers to leave out of the targets: path endings, or a regular expression for the whole path.",
    )
    target_parameters: list[str] | None = Field(
        None, description="Parameters outside of linear layers, by path ending: a mixture's experts, its router."
    )
    rank_pattern: dict[Pattern, Annotated[int, Field(ge=1, le=512)]] | None = Field(
        None, description="A different rank for layers whose path ends with the key, a regular expression."
    )
    alpha_pattern: dict[Pattern, Annotated[float, Field(gt=0, le=4096)]] | None = Field(
        None, description="A different alpha for layers whose path ends with the key, a regular expression."
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha / √rank (rsLoRA, arXiv:2312.03732), so that high ranks keep learning."
    )
    use_dora: bool = Field(
        False,
        description="Learn each output's magnitude separately from its direction (DoRA, arXiv:2402.09353): slower, "
        "often better at low rank; vLLM cannot serve it.",
    )
    init_weights: Literal["default", "gaussian", "pissa", "olora"] = Field(
        "default",
        description="Initial A and B: uniform A and zero B, normal A and zero B, the weight's principal components "
        "(PiSSA, arXiv:2404.02948), or an orthonormal basis of its outputs (OLoRA, arXiv:2406.01775). The last two are "
        "saved as plain LoRA of twice the rank.",
    )
    learning_rate_ratio: float = Field(
        1.0, gt=0, le=1024, description="Learning rate of B relative to A (LoRA+, arXiv:2402.12354; 16 is usual)."
    )

    @model_validator(mode="after")
    def _inits_that_fit(self) -> LowRankMethod:
        if self.starts_from_weight and self.use_dora:
            raise ValueError(
                f"`init_weights: {self.init_weights}` and `use_dora` cannot be combined: "
                "they split the weight in different ways"
            )
        return self

    @property
    def starts_from_weight(self) -> bool:
        """Whether A and B start as part of the frozen weight, which is then subtracted from it."""
        return self.init_weights in ("pissa", "olora")

    @property
    def kept_copies(self) -> int:
        """2 if the initial A and B are kept and saved too, which doubles the rank."""
        return 2 if self.starts_from_weight else 1

    def adapted_ranks(self, shape: Shape) -> dict[Linear, int]:
        """Follow the rules of `engine.adapters.targets`."""
        targets, excluded = self.target_modules, self.exclude_modules
        chosen = [linear for linear in shape.linears if targets == "all-linear" or _matches(linear.path, targets)]
        kept = [linear for linear in chosen or shape.linears if excluded is None or not _matches(linear.path, excluded)]
        return {linear: self._rank_of(linear.path) for linear in kept}

    def trained_parameters(self, shape: Shape) -> int:
        ranks = self.adapted_ranks(shape)
        matrices = sum(rank * (linear.in_features + linear.out_features) for linear, rank in ranks.items())
        magnitudes = _outputs(ranks) if self.use_dora else 0
        return shape.facts.layers * (matrices + magnitudes)

    def saved_numbers(self, shape: Shape, *, compiled: bool) -> SavedNumbers:
        """See the module's docstring."""
        ranks = self.adapted_ranks(shape)
        names = {linear.path.rpartition(".")[2] for linear in ranks}
        dropped = sum(linear.in_features for linear in ranks) if self.dropout else 0
        numbers = sum(ranks.values()) * self.kept_copies + dropped
        numbers += _outputs(ranks) if self.use_dora else 0
        if not dropped:
            numbers += shape.hidden if names & {"q_proj", "k_proj", "v_proj"} else 0
            numbers += shape.query if "o_proj" in names else 0
            numbers += shape.hidden if names & {"gate_proj", "up_proj"} else 0
        is_fused = shape.is_gated and {"gate_proj", "up_proj", "down_proj"} <= names
        if is_fused and not dropped and not self.use_dora and not compiled:
            numbers += 2 * shape.intermediate
        else:
            numbers += shape.mlp_products * shape.intermediate
            numbers += shape.intermediate if "down_proj" in names and not dropped else 0
        return SavedNumbers(numbers, dropped)

    def savings(self) -> Iterator[Saving]:
        if self.rank > _SMALL_RANK:
            quality = "small loss on small datasets; less capacity"
            yield Saving({"rank": _SMALL_RANK}, f"rank {_SMALL_RANK}", quality, 4)

    @property
    def obstacle_to_serving(self) -> str | None:
        if self.use_dora:
            return "It does not support DoRA: export the adapter merged, or train without DoRA."
        if self.target_parameters:
            return "It serves LoRA only on linear layers, not on experts' parameters: export the adapter merged."
        if self._names_embeddings():
            return "It serves LoRA only on linear layers, not on embeddings: leave them out of the target modules."
        return None

    @property
    def largest_saved_rank(self) -> int:
        return self.kept_copies * max(self.rank, *(self.rank_pattern or {}).values(), 0)

    @property
    def is_even(self) -> bool:
        return not (self.rank_pattern or self.alpha_pattern)

    def _rank_of(self, path: str) -> int:
        patterns = (self.rank_pattern or {}).items()
        return next((rank for key, rank in patterns if re.match(rf"(.*\.)?({key})$", path)), self.rank)

    def _names_embeddings(self) -> bool:
        targets = self.target_modules
        names = [targets] if isinstance(targets, str) else targets
        return any("embed" in name or name in _EMBEDDING_NAMES for name in names)


class LoraMethod(LowRankMethod):
    """LoRA (arXiv:2106.09685): two thin matrices added to each frozen layer."""

    recipe_names: ClassVar[dict[str, str]] = {
        "Axolotl": "lora",
        "LLaMA-Factory": "lora",
        "LLaMA-Factory v1": "lora",
    }

    type: Literal["lora"] = "lora"

    def savings(self) -> Iterator[Saving]:
        words = "the base model in 4 bits (NF4)"
        yield Saving({"type": self.quantised_type}, words, "small loss: arXiv:2305.14314", 3, packs_base=True)
        yield from super().savings()


class QloraMethod(LowRankMethod):
    """QLoRA (arXiv:2305.14314): LoRA in float32 on a base model with linear layers quantised to 4 or 8 bits."""

    recipe_names: ClassVar[dict[str, str]] = {"Axolotl": "qlora"}
    first_fields: ClassVar[tuple[str, ...]] = ("rank", "alpha", "quantization")

    type: Literal["qlora"] = "qlora"
    quantization: Literal["nf4", "fp4", "int8"] = Field(
        "nf4", description="Quantisation of the frozen weights; nf4 suits weights best, int8 needs twice the memory."
    )
    double_quantization: bool = Field(
        True, description="Quantise the scales of the 4-bit blocks too: saves 0.4 bits per weight."
    )

    @property
    def base_quantization(self) -> dict[str, Any]:
        return {"quantization": self.quantization, "double_quantization": self.double_quantization}

    @property
    def base_bits(self) -> float:
        is_int8 = self.quantization == "int8"
        return _BITS[self.quantization] + (_INT8_SCALE_BITS if is_int8 else _SCALE_BITS[self.double_quantization])


def _outputs(linears: dict[Linear, int]) -> int:
    return sum(linear.out_features for linear in linears)


def _matches(path: str, pattern: str | list[str]) -> bool:
    if isinstance(pattern, str):
        try:  # The engine matches by `re`, which does not stop; somebody's pattern may take exponential time.
            return regex.fullmatch(pattern, path, timeout=MATCH_SECONDS) is not None
        except (TimeoutError, regex.error) as unsuited:
            raise Refusal(
                "invalid_spec",
                f"The pattern {_shown(pattern)!r} takes too long to match {path!r}, or cannot be read ({unsuited}).",
                "Write it without repetitions inside repetitions, or list the modules' names.",
                field="method.target_modules",
            ) from unsuited
    return any(path == name or path.endswith(f".{name}") for name in pattern)
