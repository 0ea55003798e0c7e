"""Loss scaling for float16, so that small gradients do not underflow.

    backward of  scale · loss,  then gradients / scale;  after an overflow the step is repeated with half the scale

No step is skipped, so every row is trained on. After many good steps the scale doubles.
Source: Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740, section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

LARGEST = 2.0**16
GOOD_STEPS = 1000  # Good steps before the scale is doubled.


class LossScale:
    """The loss scale of a run: always 1 unless it computes in float16."""

    def __init__(self, dtype: torch.dtype, value: float | None = None, good_steps: int = 0) -> None:
        self.is_used = dtype == torch.float16
        self.value = (value or LARGEST) if self.is_used else 1.0
        self.good_steps = good_steps

    def unscale(self, gradients: Iterable[Tensor]) -> None:
        if self.value != 1.0:
            torch._foreach_mul_(list(gradients), 1 / self.value)

    def halve(self) -> bool:
        """Halve the scale after an overflow; return whether a smaller scale was left to try."""
        self.good_steps = 0
        if self.value <= 1.0:
            return False
        self.value /= 2
        return True

    def grow(self) -> None:
        """Count a good step, and double the scale if it is time."""
        self.good_steps += 1
        if self.is_used and self.good_steps % GOOD_STEPS == 0:
            self.value = min(2 * self.value, LARGEST)
