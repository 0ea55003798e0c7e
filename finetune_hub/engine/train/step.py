"""One step: forward and backward over the next rows, in micro-batches, then one update of the adapter.

    loss = Σ over supervised tokens / their number in the whole step
    clip, AdamW at the schedule's learning rate

The step waits for the device only once, to read the loss and the gradient norm before the update.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import nn

from finetune_hub.engine.dataset import TokenRow
from finetune_hub.engine.errors import Diverged
from finetune_hub.engine.objectives.objective import backward
from finetune_hub.engine.process_memory import peak_memory_bytes
from finetune_hub.engine.train.setup import Training
from finetune_hub.engine.transfer import read
from finetune_hub.spec.events import Step
from finetune_hub.spec.training import TrainingOptions

_NAMED_ROWS = 8


def take_step(training: Training) -> Step:
    """Train on the next rows and advance `training.state` by a step.

    Raises:
        Diverged: loss or gradients are not finite; the adapter is unchanged.
    """
    started = time.perf_counter()
    options, data, state = training.run.spec.training, training.data, training.state
    step, rows = state.step + 1, data.of_step(state.rows_drawn)
    relative_rate = schedule(step, data.total_steps, options)
    for group in training.optimizer.param_groups:
        group["lr"] = relative_rate * group["peak_lr"]

    loss, measures, grad_norm = _compute_gradients(training, rows)
    training.optimizer.step()
    training.scale.grow()

    tokens, supervised_tokens = sum(row.tokens for row in rows), sum(row.supervised_tokens for row in rows)
    training.state = state.after_step(
        loss=loss, rows=len(rows), tokens=tokens, supervised_tokens=supervised_tokens, scale=training.scale
    )
    return Step(
        step=step,
        epoch=training.state.rows_drawn / data.order.rows_per_epoch,
        loss=loss,
        learning_rate=relative_rate * options.learning_rate,
        grad_norm=grad_norm,
        tokens=tokens,
        supervised_tokens=supervised_tokens,
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(training.run.device),
        measures=measures,
    )


def _compute_gradients(training: Training, rows: Sequence[TokenRow]) -> tuple[float, dict[str, float], float]:
    """Compute the clipped gradient of the rows' mean loss in the adapter's tensors.

    Returns:
        The loss in nats, the objective's measures by name, and the gradient norm before clipping.
    """
    step, objective = training.state.step + 1, training.objective
    while True:  # Repeats only if float16 overflows, with a smaller scale.
        loss, *measures, grad_norm = _backward_of_step(training, rows)
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return loss, dict(zip(objective.options.measures, measures, strict=True)), grad_norm
        if not training.scale.halve():
            named = ", ".join(row.name for row in rows[:_NAMED_ROWS])
            raise Diverged(
                f"Step {step} has the loss {loss} and the gradient norm {grad_norm}; its rows are {named}.",
                "Lower `learning_rate`, raise `warmup_ratio`, or check these rows.",
            )


def _backward_of_step(training: Training, rows: Sequence[TokenRow]) -> list[float]:
    """Run all micro-batches of a step, over all ranks; return loss, measures and gradient norm, read at once."""
    run, ranks, objective, trained = training.run, training.ranks, training.objective, training.trained
    options = run.spec.training
    micro_batches = [
        rows[start : start + options.micro_batch_size] for start in range(0, len(rows), options.micro_batch_size)
    ]
    for tensor in trained:
        tensor.grad = None if ranks.count == 1 else torch.zeros_like(tensor)
    weight, parts = objective.weight_of(rows), torch.zeros(1 + len(objective.options.measures), device=run.device)
    for micro_batch, counts in ranks.share(micro_batches):
        parts += backward(objective, micro_batch, weight if counts else math.inf, loss_scale=training.scale.value)
    gradients = [tensor.grad for tensor in trained if tensor.grad is not None]
    ranks.add_up([parts, *gradients])
    training.scale.unscale(gradients)
    norm = nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
    return read(torch.cat([parts, norm[None]]))


def schedule(step: int, total_steps: int, options: TrainingOptions) -> float:
    """Return the learning rate of a step (from 1) relative to the peak: linear warm-up, then the chosen decay."""
    warmup_steps = math.ceil(total_steps * options.warmup_ratio)
    if step <= warmup_steps:
        return step / warmup_steps
    progress = (step - 1 - warmup_steps) / max(1, total_steps - warmup_steps)
    if options.schedule == "linear":
        return 1 - progress
    if options.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0
