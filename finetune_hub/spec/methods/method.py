"""A method of fine-tuning: its settings, and all that follows from them without a single tensor (P9).

Whoever adds one writes its settings beside those here, with the facts in which it differs from what is set here, its
line in `registry.py`, and its other half under the same name in `engine/methods.py`: its tensors, and how PEFT spells
them. Nothing else asks which method a run has.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from finetune_hub.spec.part import Part
from finetune_hub.spec.shape import Linear, Shape


class SavedNumbers(NamedTuple):
    """What a layer's forward pass keeps of one token for the backward pass."""

    numbers: float
    """In the compute dtype."""
    mask_numbers: float = 0.0
    """Of dropout's masks: a byte each on a GPU."""


@dataclass(frozen=True)
class Saving:
    """Other settings of a method that need less memory, and their price."""

    changes: dict[str, Any]
    """By the settings' names; `type` is another method."""
    words: str
    quality: str
    """The price in quality, in words."""
    cost: int
    """The higher, the worse: 1 is next to none."""
    packs_base: bool = False
    """It quantises the base model."""


class Method(Part):
    """One method with its settings. What is set here suits one that trains a few numbers beside an untouched base."""

    default_learning_rate: ClassVar[float]
    """Its own; a spec that names none takes it."""
    quantised_type: ClassVar[str | None] = None
    """The same method over a base model in 4 or 8 bits; its own type: it is that. None: there is none."""
    recipe_names: ClassVar[dict[str, str]] = {}
    """By program, what its recipes call the method."""
    first_fields: ClassVar[tuple[str, ...]] = ()
    """Settings that a form shows before all others, in this order."""

    type: str

    @abstractmethod
    def trained_parameters(self, shape: Shape) -> int:
        """P: numbers that the optimizer updates."""

    def adapted_ranks(self, shape: Shape) -> dict[Linear, int]:
        """Linear layers of one decoder layer that get low-rank matrices, each with its rank."""
        return {}

    @property
    def base_quantization(self) -> dict[str, Any]:
        """How the base model's linear layers are quantised, in the words of `spec.run`; empty: they are not."""
        return {}

    @property
    def base_bits(self) -> float | None:
        """Bits of each number of the base model's linear layers; None: they are kept in the run's own dtype."""
        return None

    @property
    def kept_copies(self) -> int:
        """Copies of the trained numbers that the run keeps, the trained ones included."""
        return 1

    @property
    def tokens_before_each_row(self) -> int:
        """Tokens of its own that pass through all layers ahead of a row."""
        return 0

    def saved_numbers(self, shape: Shape, *, compiled: bool) -> SavedNumbers:
        """Of one token in one layer, beside the residual stream, queries, keys and values, which every run keeps."""
        return SavedNumbers(shape.mlp_products * shape.intermediate)

    def savings(self) -> Iterator[Saving]:
        """What else could be tried where memory is short."""
        return iter(())

    @property
    def obstacle_to_serving(self) -> str | None:
        """Why programs that serve LoRA cannot serve it, and the way out, in a sentence; None: they can."""
        return "It serves LoRA only, which this is not: use PEFT, or train with LoRA."

    @property
    def largest_saved_rank(self) -> int:
        """Of the LoRA that it is published as; 0: it is none."""
        return 0

    @property
    def is_even(self) -> bool:
        """Whether all layers of the LoRA that it is published as share one rank and one scale."""
        return True

    @property
    def is_lora(self) -> bool:
        """Whether it is an update of weights that LoRA's two matrices describe."""
        return self.largest_saved_rank > 0
