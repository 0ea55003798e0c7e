"""Loss scaling for float16, whose smallest numbers would swallow small gradients.

    backward of  scale · loss,  then gradients / scale;  on overflow the step is computed again with half the scale

Nothing is skipped: a step that overflows is repeated, so every row is trained on. After many good steps the scale
doubles.
Source: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

LARGEST = 2.0**16
GOOD_STEPS = 1000  # Before the scale is doubled.


class LossScale:
    """The factor of one run: always 1 unless it computes in float16."""

    def __init__(self, dtype: torch.dtype, value: float | None = None, good_steps: int = 0) -> None:
        self.is_used = dtype == torch.float16
        self.value = (value or LARGEST) if self.is_used else 1.0
        self.good_steps = good_steps

    def unscale(self, gradients: Iterable[Tensor]) -> None:
        if self.value != 1.0:
            torch._foreach_mul_(list(gradients), 1 / self.value)

    def halve(self) -> bool:
        """After an overflow: whether a smaller scale is left to try."""
        self.good_steps = 0
        if self.value <= 1.0:
            return False
        self.value /= 2
        return True

    def grow(self) -> None:
        """After a good step."""
        self.good_steps += 1
        if self.is_used and self.good_steps % GOOD_STEPS == 0:
            self.value = min(2 * self.value, LARGEST)
