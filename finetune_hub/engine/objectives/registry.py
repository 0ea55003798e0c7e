"""The objectives that the engine can train: for each of `spec.objectives`, what computes it.

A new one is a file beside this one and a line here.
"""

from __future__ import annotations

from typing import Any

from finetune_hub.engine.objectives.dpo import Dpo
from finetune_hub.engine.objectives.objective import Objective, Setting
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.spec.objectives.objective import Objective as ObjectiveSettings

OBJECTIVES: dict[str, type[Any]] = {"sft": Sft, "dpo": Dpo}


def build(options: ObjectiveSettings, setting: Setting) -> Objective:
    """The objective that the spec names, at work."""
    objective: Objective = OBJECTIVES[options.type](setting, options)
    return objective
