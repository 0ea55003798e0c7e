"""A method that adds one trained vector to every embedding, and an objective that looks away from what is easy."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from finetune_hub.spec.measures import MEASURES, Measure
from finetune_hub.spec.methods.method import Method
from finetune_hub.spec.methods.registry import METHODS
from finetune_hub.spec.objectives.objective import Objective
from finetune_hub.spec.objectives.registry import OBJECTIVES
from finetune_hub.spec.shape import Shape


class SteerMethod(Method):
    """Steering: one trained vector is added to the embedding of every token."""

    default_learning_rate: ClassVar[float] = 5e-3
    first_fields: ClassVar[tuple[str, ...]] = ("strength",)

    type: Literal["steer"] = "steer"
    strength: float = Field(1.0, gt=0, le=10, description="What the vector is multiplied by.")

    def trained_parameters(self, shape: Shape) -> int:
        return shape.hidden


class FocalObjective(Objective):
    """Focal loss: tokens that are predicted well already count less."""

    measures: ClassVar[tuple[str, ...]] = ("sure_tokens",)
    loss_is: ClassVar[str] = "mean over the supervised tokens, each by (1 − p) to the power gamma"

    type: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0, le=10, description="0 is supervised fine-tuning.")


METHODS["steer"] = SteerMethod
OBJECTIVES["focal"] = FocalObjective
MEASURES["sure_tokens"] = Measure(
    name="sure_tokens",
    label="Sure tokens",
    word="sure",
    unit="share",
    better="higher",
    is_drawn=False,
    description="Share of the supervised tokens whose probability is above one half.",
)
