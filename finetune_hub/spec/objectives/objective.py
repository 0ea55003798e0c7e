"""What a training makes smaller: an objective's settings, and all that follows from them without a tensor (P9).

Whoever adds one writes its settings beside those here, with the facts in which it differs from what is set here, its
line in `registry.py`, and its other half under the same name in `engine/objectives/`. Nothing else asks which objective
a run has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from finetune_hub.spec.part import Part
from finetune_hub.spec.row_kinds import RowKind


@dataclass(frozen=True)
class RecipeName:
    """What the recipes of other programs call an objective, and what that says."""

    settings: dict[str, Any]
    """Of the objective, beside its type."""
    said: str = ""
    """To whoever brings the recipe, in a sentence."""


class Objective(Part):
    """One objective with its settings. What is set here suits one that learns from a row in one pass."""

    measures: ClassVar[tuple[str, ...]] = ()
    """Names in `spec.measures` of what is told of a step beside the loss."""
    loss_is: ClassVar[str]
    """What the loss is a mean of, and its unit."""

    row_kinds: ClassVar[frozenset[RowKind]] = frozenset(RowKind)
    """What it can learn from."""
    learns_from: ClassVar[str] = "any rows"
    """That in words, in a sentence after `learns from`."""
    own_row_kind: ClassVar[RowKind | None] = None
    """Rows that are made for it: where all are of this kind, presets take it."""
    own_rows_are: ClassVar[str] = ""
    """Those rows in words."""

    documents_of_row: ClassVar[int] = 1
    """Documents that pass through the model for a row."""
    reference_passes: ClassVar[int] = 0
    """Forward passes of the base model alone over each document, without gradients."""
    learning_rate_share: ClassVar[float] = 1.0
    """Its best learning rate, in units of supervised fine-tuning's."""
    learning_rate_reason: ClassVar[str] = ""
    """Why, in a few words."""

    recipe_names: ClassVar[dict[str, RecipeName]] = {}
    recipe_options: ClassVar[dict[str, dict[str, str]]] = {}
    """By program, keys of its recipes that mean nothing to other objectives, each with the setting that it is."""
    first_fields: ClassVar[tuple[str, ...]] = ()
    """Settings that a form shows before all others, in this order."""

    type: str
