"""The optimizers: torch's fused AdamW, and bitsandbytes' AdamW with 8-bit averages, optionally paged.

Source: Loshchilov and Hutter, arXiv:1711.05101; Dettmers et al., "8-bit Optimizers", arXiv:2110.02861.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.training import TrainingOptions


def build(groups: Sequence[dict[str, Any]], options: TrainingOptions, device: str) -> torch.optim.Optimizer:
    """Create the optimizer that the options name, for the groups from `adapters.adapter.parameter_groups`.

    Raises:
        BadConfig: it needs a package or a device that is not available.
    """
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=options.weight_decay, fused=True)
    if options.optimizer == "paged_adamw_8bit" and device != "cuda":
        raise BadConfig("The paged optimizer needs a CUDA GPU.", "Choose `optimizer: adamw_8bit` or `adamw`.")
    try:
        import bitsandbytes.optim
    except ImportError as missing:
        raise BadConfig(
            f"The optimizer {options.optimizer} needs bitsandbytes ({missing}).", "Install it, or choose `adamw`."
        ) from missing
    name = "PagedAdamW8bit" if options.optimizer == "paged_adamw_8bit" else "AdamW8bit"
    kind = getattr(bitsandbytes.optim, name)
    optimizer: torch.optim.Optimizer = kind(groups, weight_decay=options.weight_decay)
    return optimizer
