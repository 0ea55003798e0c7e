"""The objectives, by `type`. To add one, add a module to this package and a line here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from finetune_hub.spec.objectives.dpo import DpoObjective
from finetune_hub.spec.objectives.objective import Objective
from finetune_hub.spec.objectives.sft import SftObjective
from finetune_hub.spec.one_of import OneOf

OBJECTIVES: dict[str, type[Objective]] = {"sft": SftObjective, "dpo": DpoObjective}
_ONE_OF = OneOf(OBJECTIVES, usual="sft")
AnyObjective = Annotated[Objective, _ONE_OF]


def objective_type(document: Any) -> type[Objective] | None:
    """Return the model for a document's `type` (supervised fine-tuning if it has none); None if it is unknown."""
    return _ONE_OF.model_of(document)


def objective_for(row_kinds: Iterable[str | None]) -> Objective:
    """Return the objective that all rows are made for, or supervised fine-tuning if there is none."""
    kinds = set(row_kinds)
    made_for = [model for model in OBJECTIVES.values() if model.own_row_kind and kinds == {model.own_row_kind}]
    return made_for[0].model_validate({}) if made_for else SftObjective()
