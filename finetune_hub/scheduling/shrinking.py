"""What to change in a spec after it ran out of memory: less memory, more time, the same global batch."""

from __future__ import annotations

from finetune_hub.scheduling.changes import Changes
from finetune_hub.spec.training import TrainingSpec

MAX_ACCUMULATION = 1024


def smaller(spec: TrainingSpec) -> Changes | None:
    """Return micro-batches of at most half the size, then activation checkpointing; None: nothing is left to try."""
    options = spec.training
    rows = options.micro_batch_size * options.gradient_accumulation_steps
    for size in range(options.micro_batch_size // 2, 0, -1):
        if rows % size == 0 and rows // size <= MAX_ACCUMULATION:
            return {"training.micro_batch_size": size, "training.gradient_accumulation_steps": rows // size}
    return None if spec.runtime.activation_checkpointing else {"runtime.activation_checkpointing": True}


def in_words(changes: Changes) -> str:
    """Return the changes as text: `micro_batch_size` 2, `gradient_accumulation_steps` 4."""
    return ", ".join(f"`{field.partition('.')[2]}` {str(value).lower()}" for field, value in changes.items())
