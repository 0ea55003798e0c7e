"""Supervised fine-tuning: predict the supervised tokens of each conversation."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from finetune_hub.spec.objectives.objective import Objective, RecipeName


class SftObjective(Objective):
    """Supervised fine-tuning: predict the supervised tokens of each conversation."""

    loss_is: ClassVar[str] = "mean over the supervised tokens, in nats"
    recipe_names: ClassVar[dict[str, RecipeName]] = {
        "sft": RecipeName({}),
        # Here plain text is a row format.
        "pt": RecipeName({}, "In plain-text rows every token is supervised."),
    }

    type: Literal["sft"] = "sft"
    supervise: Literal["assistant"] = Field(
        "assistant", description="Only the assistant's turns, including their end token."
    )
