"""The objective of a training run: its settings, and everything that follows from them without a tensor (P9).

To add one, write its settings in a module next to this one, overriding the defaults here where it differs; add a line
to `registry.py`; and add its engine half under the same name to `engine/objectives/`. No other code checks which
objective a run has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from finetune_hub.spec.part import Part
from finetune_hub.spec.row_kinds import RowKind


@dataclass(frozen=True)
class RecipeName:
    """An objective's name in other programs' recipes, and the settings that it implies."""

    settings: dict[str, Any]
    """The objective's settings, besides its type."""
    said: str = ""
    """A sentence for the user who imports the recipe."""


class Objective(Part):
    """An objective with its settings. The defaults suit one that learns from a row in one pass."""

    measures: ClassVar[tuple[str, ...]] = ()
    """Names in `spec.measures` of what a step reports in addition to the loss."""
    loss_is: ClassVar[str]
    """What the loss averages over, and its unit."""

    row_kinds: ClassVar[frozenset[RowKind]] = frozenset(RowKind)
    """The kinds of rows that it can learn from."""
    learns_from: ClassVar[str] = "any rows"
    """The same in words, to follow `learns from` in a sentence."""
    own_row_kind: ClassVar[RowKind | None] = None
    """The kind of rows made for it: if all rows are of this kind, presets choose this objective."""
    own_rows_are: ClassVar[str] = ""
    """Those rows in words."""

    documents_of_row: ClassVar[int] = 1
    """Documents that pass through the model per row."""
    reference_passes: ClassVar[int] = 0
    """Forward passes of the base model without the adapter over each document, without gradients."""
    learning_rate_share: ClassVar[float] = 1.0
    """Its best learning rate, relative to supervised fine-tuning's."""
    learning_rate_reason: ClassVar[str] = ""
    """The reason for it, in a few words."""

    recipe_names: ClassVar[dict[str, RecipeName]] = {}
    recipe_options: ClassVar[dict[str, dict[str, str]]] = {}
    """By program, recipe keys that apply only to this objective, each with the matching setting."""
    first_fields: ClassVar[tuple[str, ...]] = ()
    """Settings that a form shows first, in this order."""

    type: str
