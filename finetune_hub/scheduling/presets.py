"""Presets: a complete training spec for a dataset and a base model, each value with its reason in words.

    learning rate   10 · 5e-5 · (2000 / H)^0.781     within [1e-4, 1e-3], one digit;  H hidden size;  DPO: a 50th
    epochs          3; more (at most 25) until 100 rows were seen; fewer (at least 1) above 25,000 rows seen
    max_seq_len     the smallest power of two that keeps 99% of the tokens
    global batch    16 rows; fewer, down to 4, if the run would take fewer than 50 steps
    micro-batch     as much of the global batch as fits, on the smallest device that has room
    alpha           32 for every rank, so that the learning rate does not depend on the rank

Sources: Schulman et al., "LoRA Without Regret", Thinking Machines 2025: LoRA's best learning rate is ten times that of
full fine-tuning, nearly the same for every rank at alpha 32, on all linear layers, and small batches suit it; the fit
over hidden sizes is `hyperparam_utils` of their Tinker cookbook, for Llama. It agrees with Dettmers et al.,
arXiv:2305.14314, table 9 (2e-4 for 7B and 13B, 1e-4 above). Epochs: OpenAI's cookbook, "Data preparation and analysis
for chat model fine-tuning". DPO: 5e-6 for 7B by LoRA, in LLaMA-Factory's example and Zephyr's recipe.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from finetune_hub.scheduling.changes import changed
from finetune_hub.scheduling.devices import KNOWN_GPUS, PlannedDevice
from finetune_hub.scheduling.fitting import Alternative, cheapest_fit
from finetune_hub.scheduling.learning import FinishedRun
from finetune_hub.scheduling.workload import Rows, workload_of
from finetune_hub.spec.answer import Answer
from finetune_hub.spec.objectives.objective import Objective
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.shape import Shape
from finetune_hub.spec.sizes import size_in_words
from finetune_hub.spec.training import TrainingSpec

_PARTS = list(TrainingSpec.model_fields)
_ALPHA = 32.0
_GLOBAL_BATCH, _LEAST_BATCH, _LEAST_STEPS = 16, 4, 50
_EPOCHS, _MET_ROWS, _MOST_EPOCHS = 3, (100, 25_000), 25
_SHORTEST, _UNKNOWN_LENGTH = 128, 1024
_EVALUATIONS = 10
_FEWEST_HELD_OUT = 5


@dataclass(frozen=True)
class Aim:
    """What a preset is for, and how it differs from the others."""

    title: str
    purpose: str
    rank: int
    rank_reason: str
    kept_share: float = 0.99
    """Share of the tokens."""
    held_out: float = 0.05
    max_steps: int | None = None
    patience: int | None = None
    device: PlannedDevice | None = None
    """Device to plan for instead of the hub's own devices."""


PRESETS = {
    "balanced": Aim(
        "Balanced",
        "A good start for most datasets: good results in reasonable time.",
        rank=16,
        rank_reason="enough capacity for most datasets, at little cost",
    ),
    "quick": Aim(
        "Quick",
        "For small data or a first look: one epoch of at most 100 steps, to check the rows and the answers.",
        rank=8,
        rank_reason="half the usual, which is enough for small data",
        held_out=0.0,
        max_steps=100,
    ),
    "best-quality": Aim(
        "Best quality",
        "Higher rank and more epochs; held-out rows decide when to stop, and the best weights are published.",
        rank=64,
        rank_reason="four times the usual, so that capacity does not limit learning",
        kept_share=0.999,
        held_out=0.1,
        patience=3,
    ),
    "fits-24gb": Aim(
        "Fits 24 GB",
        "For one 24 GB card (RTX 3090 or 4090, L4, A10), whatever devices the hub has; in 4 bits if necessary.",
        rank=16,
        rank_reason="the usual; it needs little memory compared with the base model",
        device=KNOWN_GPUS["RTX 4090"],
    ),
}
DEFAULT_PRESET = next(iter(PRESETS))


class PresetValue(Answer):
    """One field of the spec."""

    field: str = Field(description="Path in the spec, such as `training.epochs`.")
    value: Any
    reason: str = Field(description="Why this value, in words.")


class Preset(Answer):
    """A training spec filled in for a purpose."""

    name: str
    title: str
    purpose: str
    values: list[PresetValue] = Field(description="The values that the preset chose, each with its reason.")
    spec: TrainingSpec = Field(description="The whole spec, as `POST /api/jobs` takes it.")


class PresetsAnswer(Answer):
    """Presets for datasets and a base model."""

    presets: list[Preset]


def make_preset(
    name: str,
    asked: TrainingSpec,
    shape: Shape,
    rows: Rows,
    devices: Sequence[PlannedDevice],
    runs: Sequence[FinishedRun] = (),
) -> Preset:
    """Return a preset for the base model and the datasets of `asked`, whose other fields stay as they are.

    Raises:
        Refusal: `unknown_preset`.
    """
    aim, objective = aim_of(name), asked.objective
    values = []
    if objective.own_row_kind is not None:
        reason = f"its rows are {objective.own_rows_are}"
        values.append(PresetValue(field="objective.type", value=objective.type, reason=reason))
    values += [*_method_values(aim, shape, objective), _epochs_value(aim, rows), *_length_values(aim, shape, rows)]
    spec = changed(asked, {value.field: value.value for value in values})
    values += _batch_values(spec, shape, rows, [aim.device] if aim.device else devices, runs)
    values += _last_values(aim, changed(spec, {value.field: value.value for value in values}), rows)
    latest = {value.field: value for value in values}  # The planner's values come later, so they win.
    values = sorted(latest.values(), key=lambda value: _PARTS.index(value.field.partition(".")[0]))
    spec = changed(spec, {value.field: value.value for value in values})
    return Preset(name=name, title=aim.title, purpose=aim.purpose, values=values, spec=spec)


def aim_of(name: str) -> Aim:
    """Return a preset's aim.

    Raises:
        Refusal: `unknown_preset`.
    """
    if name not in PRESETS:
        raise Refusal(
            "unknown_preset", f"There is no preset {name!r}.", f"Choose one of: {', '.join(PRESETS)}.", field="preset"
        )
    return PRESETS[name]


def learning_rate_for(hidden_size: int) -> float:
    """Return LoRA's learning rate for a hidden size: see the module's docstring."""
    rate = min(1e-3, max(1e-4, 10 * 5e-5 * (2000 / hidden_size) ** 0.781))
    return float(f"{rate:.0e}")


def epochs_for(row_count: int) -> int:
    """Return the epochs for a number of rows: few rows are repeated more often, many rows less."""
    least, most = _MET_ROWS
    if row_count * _EPOCHS < least:
        return min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(least / row_count)))
    return max(1, min(_EPOCHS, most // row_count))


def length_for(rows: Rows, kept_share: float, context_length: int | None) -> int:
    """Return the smallest power of two that keeps this share of the tokens, at most the model's context length."""
    most = context_length or 1 << 20
    length = _SHORTEST if rows.lengths else _UNKNOWN_LENGTH
    while length < most and (rows.share_lost(length) or 0.0) > 1 - kept_share:
        length *= 2
    return min(length, most)


def _method_values(aim: Aim, shape: Shape, objective: Objective) -> list[PresetValue]:
    rate = learning_rate_for(shape.hidden)
    reason = f"ten times the rate of full fine-tuning, for a hidden size of {shape.hidden:,}"
    if objective.learning_rate_share != 1:
        rate, reason = float(f"{rate * objective.learning_rate_share:.0e}"), objective.learning_rate_reason
    return [
        PresetValue(field="method.type", value="lora", reason="learns like full fine-tuning on data of this size"),
        PresetValue(field="method.rank", value=aim.rank, reason=aim.rank_reason),
        PresetValue(
            field="method.alpha", value=_ALPHA, reason="the same for every rank, so that the learning rate is too"
        ),
        PresetValue(
            field="training.learning_rate",
            value=rate,
            reason=reason,
        ),
    ]


def _epochs_value(aim: Aim, rows: Rows) -> PresetValue:
    usual = epochs_for(rows.count)
    epochs = usual
    if usual > _EPOCHS:
        reason = f"{rows.count:,} rows are few, so each is repeated more often"
    elif aim.max_steps:
        epochs, reason = 1, "one epoch is enough to check the rows and the answers"
    elif aim.patience:
        epochs, reason = 2 * usual, f"twice the usual for {rows.count:,} rows: held-out rows decide when to stop"
    elif usual < _EPOCHS:
        reason = f"{rows.count:,} rows are many, so fewer epochs are enough"
    else:
        reason = f"usual for {rows.count:,} rows"
    return PresetValue(field="training.epochs", value=float(epochs), reason=reason)


def _length_values(aim: Aim, shape: Shape, rows: Rows) -> list[PresetValue]:
    length = length_for(rows, aim.kept_share, shape.facts.context_length)
    lost = rows.share_lost(length)
    if lost is None:
        reason = "the lengths of the rows are not known"
    elif not lost:
        reason = f"the longest row has {max(rows.lengths):,} tokens: nothing is truncated"
    else:
        reason = f"keeps {100 * (1 - lost):.1f}% of the tokens; the longest row has {max(rows.lengths):,}"
    return [PresetValue(field="training.max_seq_len", value=length, reason=reason)]


def _batch_values(
    spec: TrainingSpec, shape: Shape, rows: Rows, devices: Sequence[PlannedDevice], runs: Sequence[FinishedRun]
) -> list[PresetValue]:
    """Return the global batch, the largest micro-batch that fits, and other changes needed to fit."""
    total = _GLOBAL_BATCH
    while total > _LEAST_BATCH and rows.count * spec.training.epochs / total < _LEAST_STEPS:
        total //= 2
    spec = changed(spec, {"training.micro_batch_size": total, "training.gradient_accumulation_steps": 1})
    device, found = _place(spec, shape, rows, devices, runs)
    changes = found.changes if found else {}
    micro = changes.get("training.micro_batch_size", total)
    passes = -(-total // micro)
    if device is None:
        reason = "not planned, because no device has joined"
    elif found is None:
        reason = f"no variant fits {device.name}: see the plan"
    else:
        reason = (
            f"as many as fit {device.name}: {size_in_words(found.peak_bytes)} of {size_in_words(device.memory_bytes)}"
        )
    values = [
        PresetValue(field="training.micro_batch_size", value=micro, reason=reason),
        PresetValue(
            field="training.gradient_accumulation_steps",
            value=passes,
            reason=f"{total} rows per step: LoRA learns best from small batches",
        ),
    ]
    own = {value.field for value in values}
    values += [
        PresetValue(field=field, value=value, reason=f"otherwise it does not fit {device.name if device else ''}")
        for field, value in changes.items()
        if field not in own
    ]
    return values


def _place(
    spec: TrainingSpec, shape: Shape, rows: Rows, devices: Sequence[PlannedDevice], runs: Sequence[FinishedRun]
) -> tuple[PlannedDevice | None, Alternative | None]:
    """Return the smallest device that fits it without losing quality, and how; otherwise the largest, at least cost."""
    by_size = sorted(devices, key=lambda device: device.memory_bytes)
    found = None
    for device in by_size:
        found = cheapest_fit(spec, shape, device, rows, runs)
        if found and not found.cost:
            return device, found
    return (by_size[-1], found) if by_size else (None, None)


def _last_values(aim: Aim, spec: TrainingSpec, rows: Rows) -> list[PresetValue]:
    """Return what depends on the number of steps: the step limit, and how often held-out rows are evaluated."""
    held_out = round(aim.held_out * rows.count)
    share = aim.held_out if held_out >= _FEWEST_HELD_OUT else 0.0
    steps = workload_of(changed(spec, {"evaluation.fraction": share}), rows).steps
    if aim.max_steps:
        ends = [PresetValue(field="training.max_steps", value=aim.max_steps, reason="enough to see how the loss falls")]
        none = PresetValue(field="evaluation.fraction", value=0.0, reason="a first look needs no held-out rows")
        return [*ends, none] if steps > aim.max_steps else [none]
    if not share:
        return [PresetValue(field="evaluation.fraction", value=0.0, reason=f"{rows.count:,} rows are too few to split")]
    values = [
        PresetValue(
            field="evaluation.fraction",
            value=share,
            reason=f"{held_out:,} rows show when the model starts to overfit",
        ),
        PresetValue(
            field="evaluation.every_steps",
            value=max(1, steps // _EVALUATIONS),
            reason=f"about {_EVALUATIONS} times in {steps:,} steps",
        ),
    ]
    if aim.patience:
        reason = "stop after this many evaluations in a row without a lower loss"
        values.append(PresetValue(field="evaluation.early_stopping_patience", value=aim.patience, reason=reason))
    return values
