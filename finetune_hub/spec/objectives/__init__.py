"""The settings of each objective, for Python programs: `from finetune_hub.spec.objectives import DpoObjective`."""

from finetune_hub.spec.objectives.dpo import DpoObjective
from finetune_hub.spec.objectives.objective import Objective
from finetune_hub.spec.objectives.sft import SftObjective

__all__ = ["DpoObjective", "Objective", "SftObjective"]
