"""The objectives that the engine can train. A new one is a file beside this one, an entry here, and its spec."""

from __future__ import annotations

from finetune_hub.engine.objectives.dpo import Dpo
from finetune_hub.engine.objectives.objective import Objective, Setting
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.spec import objectives as spec

OBJECTIVES: dict[str, type[Sft] | type[Dpo]] = {"sft": Sft, "dpo": Dpo}


def build(options: spec.Objective, setting: Setting) -> Objective:
    """The objective that the spec names, at work."""
    objective: Objective = OBJECTIVES[options.type](setting, options)  # type: ignore[arg-type]
    return objective
