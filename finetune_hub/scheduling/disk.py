"""The disk space that a training needs on its worker, by the files that `engine.train` writes.

    adapter        4 · P    in PEFT's format
    trained        4 · P    the tensors as they are trained
    optimizer      8 · P    AdamW's averages, 2.03 · P in 8 bits
    best           4 · P    if rows are held out and the best weights are kept

Two checkpoints are kept, and a third is complete before the oldest is deleted. P: trained parameters.
"""

from __future__ import annotations

from finetune_hub.spec.shape import Shape
from finetune_hub.spec.training import TrainingSpec

CHECKPOINTS_AT_ONCE = 3
_EIGHT_BIT_AVERAGES = 2.03
SMALL_FILES_BYTES = 1 << 20  # Training state, random number generators, headers.


def checkpoint_bytes(spec: TrainingSpec, shape: Shape) -> int:
    """Return the size of one checkpoint's folder in bytes."""
    averages = 8.0 if spec.training.optimizer == "adamw" else _EIGHT_BIT_AVERAGES
    best = 4.0 if spec.evaluation.fraction and spec.evaluation.keep_best else 0.0
    return round(spec.method.trained_parameters(shape) * (4.0 + 4.0 + averages + best)) + SMALL_FILES_BYTES


def run_bytes(spec: TrainingSpec, shape: Shape) -> int:
    """Return the run's peak disk usage in bytes, including the published adapter."""
    return CHECKPOINTS_AT_ONCE * checkpoint_bytes(spec, shape) + 4 * spec.method.trained_parameters(shape)
