"""A method of fine-tuning: its settings, and everything that follows from them without a tensor (P9).

To add one, write its settings in a module next to this one, overriding the defaults here where it differs; add a line
to `registry.py`; and add its engine half under the same name to `engine/methods.py`: its tensors and PEFT's names for
them. No other code checks which method a run has.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from finetune_hub.spec.part import Part
from finetune_hub.spec.shape import Linear, Shape


class SavedNumbers(NamedTuple):
    """What a layer's forward pass saves per token for the backward pass."""

    numbers: float
    """In the compute dtype."""
    mask_numbers: float = 0.0
    """Values of dropout masks: one byte each on a GPU."""


@dataclass(frozen=True)
class Saving:
    """Changed settings of a method that need less memory, and their cost."""

    changes: dict[str, Any]
    """By setting name; `type` switches to another method."""
    words: str
    quality: str
    """The cost in quality, in words."""
    cost: int
    """Higher is worse; 1 is almost free."""
    packs_base: bool = False
    """Whether it quantises the base model."""


class Method(Part):
    """A method with its settings. The defaults suit one that adds a few trained numbers to an unchanged base model."""

    default_learning_rate: ClassVar[float]
    """The method's own, for specs that name none."""
    quantised_type: ClassVar[str | None] = None
    """The type of this method on a base model in 4 or 8 bits, which may be its own type; None: there is none."""
    recipe_names: ClassVar[dict[str, str]] = {}
    """The method's name in other programs' recipes, by program."""
    first_fields: ClassVar[tuple[str, ...]] = ()
    """Settings that a form shows first, in this order."""

    type: str

    @abstractmethod
    def trained_parameters(self, shape: Shape) -> int:
        """Return P, the number of parameters that the optimizer updates."""

    def adapted_ranks(self, shape: Shape) -> dict[Linear, int]:
        """Return the linear layers of one decoder layer that get low-rank matrices, each with its rank."""
        return {}

    @property
    def base_quantization(self) -> dict[str, Any]:
        """How the base model's linear layers are quantised, as in `spec.run`; empty if they are not."""
        return {}

    @property
    def base_bits(self) -> float | None:
        """Bits per weight of the base model's linear layers; None: they have the run's dtype."""
        return None

    @property
    def kept_copies(self) -> int:
        """Copies of the trained parameters that the run keeps, including the trained ones."""
        return 1

    @property
    def tokens_before_each_row(self) -> int:
        """Virtual tokens that pass through all layers before each row."""
        return 0

    def saved_numbers(self, shape: Shape, *, compiled: bool) -> SavedNumbers:
        """Return what one layer saves per token, besides the residual stream, queries, keys and values."""
        return SavedNumbers(shape.mlp_products * shape.intermediate)

    def savings(self) -> Iterator[Saving]:
        """Return changes to try if memory is short."""
        return iter(())

    @property
    def obstacle_to_serving(self) -> str | None:
        """Why programs that serve LoRA cannot serve it, and what to do instead, in a sentence; None: they can."""
        return "It serves only LoRA: use PEFT, or train with LoRA."

    @property
    def largest_saved_rank(self) -> int:
        """The largest rank of the published LoRA; 0 if it is not LoRA."""
        return 0

    @property
    def is_even(self) -> bool:
        """Whether all layers of the published LoRA share one rank and one scale."""
        return True

    @property
    def is_lora(self) -> bool:
        """Whether it is published as LoRA."""
        return self.largest_saved_rank > 0
