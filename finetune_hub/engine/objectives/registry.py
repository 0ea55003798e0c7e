"""The objectives that the engine can train: the implementation of each of `spec.objectives`.

To add one, add a module to this package and a line here.
"""

from __future__ import annotations

from typing import Any

from finetune_hub.engine.objectives.dpo import Dpo
from finetune_hub.engine.objectives.objective import Objective, Setting
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.spec.objectives.objective import Objective as ObjectiveSettings

OBJECTIVES: dict[str, type[Any]] = {"sft": Sft, "dpo": Dpo}


def build(options: ObjectiveSettings, setting: Setting) -> Objective:
    """Create the objective that the spec names."""
    objective: Objective = OBJECTIVES[options.type](setting, options)
    return objective
