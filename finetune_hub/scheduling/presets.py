"""Presets: a whole training out of a dataset and a base model, each value with its reason in words.

    learning rate   10 · 5e-5 · (2000 / H)^0.781     within [1e-4, 1e-3], one digit;  H hidden size;  DPO: a 50th
    epochs          3; more until 100 rows are met, at most 25; fewer once 25,000 are, at least 1
    max_seq_len     the least power of two that keeps 99% of the tokens
    global batch    16 rows; fewer, down to 4, where the run would take fewer than 50 steps
    micro batch     as much of the global batch as fits, on the smallest device that has room
    alpha           32 whatever the rank, so that the learning rate need not follow the rank

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
    """What a preset is for, and where it goes another way than the others."""

    title: str
    purpose: str
    rank: int
    rank_reason: str
    kept_share: float = 0.99
    """Of the tokens."""
    held_out: float = 0.05
    max_steps: int | None = None
    patience: int | None = None
    device: PlannedDevice | None = None
    """Planned for this one instead of the hub's own."""


PRESETS = {
    "balanced": Aim(
        "Balanced",
        "A sound start for most datasets: good answers in reasonable time.",
        rank=16,
        rank_reason="room for what a dataset of this kind teaches, at little cost",
    ),
    "quick": Aim(
        "Quick",
        "Small data, or a first look: one pass, ended after 100 steps, to see whether rows and answers are as meant.",
        rank=8,
        rank_reason="half the usual: small data asks for little",
        held_out=0.0,
        max_steps=100,
    ),
    "best-quality": Aim(
        "Best quality",
        "More to learn with and more passes; held-out rows tell when to stop, and the best weights are published.",
        rank=64,
        rank_reason="four times the usual, so that capacity is not what ends the learning",
        kept_share=0.999,
        held_out=0.1,
        patience=3,
    ),
    "fits-24gb": Aim(
        "Fits 24 GB",
        "For one card of 24 GB (RTX 3090 or 4090, L4, A10), whichever devices are here: in 4 bits where it must be.",
        rank=16,
        rank_reason="the usual; its memory hardly counts beside the base model's",
        device=KNOWN_GPUS["RTX 4090"],
    ),
}
DEFAULT_PRESET = next(iter(PRESETS))


class PresetValue(Answer):
    """One field of the spec."""

    field: str = Field(description="Its place in the spec, such as `training.epochs`.")
    value: Any
    reason: str = Field(description="Why this value, in words.")


class Preset(Answer):
    """A training filled in for a purpose."""

    name: str
    title: str
    purpose: str
    values: list[PresetValue] = Field(description="What is not the spec's own default, and what it was weighed from.")
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
    """A preset for the base model and the datasets of `asked`, whose other fields stay as they are.

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
    latest = {value.field: value for value in values}  # The planner's word counts: it speaks later.
    values = sorted(latest.values(), key=lambda value: _PARTS.index(value.field.partition(".")[0]))
    spec = changed(spec, {value.field: value.value for value in values})
    return Preset(name=name, title=aim.title, purpose=aim.purpose, values=values, spec=spec)


def aim_of(name: str) -> Aim:
    """
    Raises:
        Refusal: `unknown_preset`.
    """
    if name not in PRESETS:
        raise Refusal(
            "unknown_preset", f"There is no preset {name!r}.", f"Choose one of: {', '.join(PRESETS)}.", field="preset"
        )
    return PRESETS[name]


def learning_rate_for(hidden_size: int) -> float:
    """LoRA's, by the width of the model: see the module's docstring."""
    rate = min(1e-3, max(1e-4, 10 * 5e-5 * (2000 / hidden_size) ** 0.781))
    return float(f"{rate:.0e}")


def epochs_for(row_count: int) -> int:
    """Passes over so many rows: few rows are met more often, many less."""
    least, most = _MET_ROWS
    if row_count * _EPOCHS < least:
        return min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(least / row_count)))
    return max(1, min(_EPOCHS, most // row_count))


def length_for(rows: Rows, kept_share: float, context_length: int | None) -> int:
    """The least power of two that keeps this share of the tokens; no more than the model reads."""
    most = context_length or 1 << 20
    length = _SHORTEST if rows.lengths else _UNKNOWN_LENGTH
    while length < most and (rows.share_lost(length) or 0.0) > 1 - kept_share:
        length *= 2
    return min(length, most)


def _method_values(aim: Aim, shape: Shape, objective: Objective) -> list[PresetValue]:
    rate = learning_rate_for(shape.hidden)
    reason = f"ten times full fine-tuning's for a model {shape.hidden:,} wide"
    if objective.learning_rate_share != 1:
        rate, reason = float(f"{rate * objective.learning_rate_share:.0e}"), objective.learning_rate_reason
    return [
        PresetValue(field="method.type", value="lora", reason="learns like full fine-tuning on data of this size"),
        PresetValue(field="method.rank", value=aim.rank, reason=aim.rank_reason),
        PresetValue(
            field="method.alpha", value=_ALPHA, reason="the same for every rank, so that the learning rate stays"
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
        reason = f"{rows.count:,} rows are few, so each is met more often"
    elif aim.max_steps:
        epochs, reason = 1, "one pass shows whether rows and answers are as meant"
    elif aim.patience:
        epochs, reason = 2 * usual, f"twice the usual for {rows.count:,} rows: held-out rows tell when to stop"
    elif usual < _EPOCHS:
        reason = f"{rows.count:,} rows are many: fewer passes teach as much"
    else:
        reason = f"usual for {rows.count:,} rows"
    return PresetValue(field="training.epochs", value=float(epochs), reason=reason)


def _length_values(aim: Aim, shape: Shape, rows: Rows) -> list[PresetValue]:
    length = length_for(rows, aim.kept_share, shape.facts.context_length)
    lost = rows.share_lost(length)
    if lost is None:
        reason = "the rows' lengths are not known"
    elif not lost:
        reason = f"the longest row has {max(rows.lengths):,} tokens: nothing is truncated"
    else:
        reason = f"keeps {100 * (1 - lost):.1f}% of the tokens; the longest row has {max(rows.lengths):,}"
    return [PresetValue(field="training.max_seq_len", value=length, reason=reason)]


def _batch_values(
    spec: TrainingSpec, shape: Shape, rows: Rows, devices: Sequence[PlannedDevice], runs: Sequence[FinishedRun]
) -> list[PresetValue]:
    """The rows of a step, as many of them at once as fit; and what else it takes to fit."""
    total = _GLOBAL_BATCH
    while total > _LEAST_BATCH and rows.count * spec.training.epochs / total < _LEAST_STEPS:
        total //= 2
    spec = changed(spec, {"training.micro_batch_size": total, "training.gradient_accumulation_steps": 1})
    device, found = _place(spec, shape, rows, devices, runs)
    changes = found.changes if found else {}
    micro = changes.get("training.micro_batch_size", total)
    passes = -(-total // micro)
    if device is None:
        reason = "no device has joined, so it is not planned"
    elif found is None:
        reason = f"nothing of it fits {device.name}: see the plan"
    else:
        reason = (
            f"as many as fit {device.name}: {size_in_words(found.peak_bytes)} of {size_in_words(device.memory_bytes)}"
        )
    values = [
        PresetValue(field="training.micro_batch_size", value=micro, reason=reason),
        PresetValue(
            field="training.gradient_accumulation_steps",
            value=passes,
            reason=f"{total} rows a step: LoRA learns best from small batches",
        ),
    ]
    own = {value.field for value in values}
    values += [
        PresetValue(field=field, value=value, reason=f"without it, it does not fit {device.name if device else ''}")
        for field, value in changes.items()
        if field not in own
    ]
    return values


def _place(
    spec: TrainingSpec, shape: Shape, rows: Rows, devices: Sequence[PlannedDevice], runs: Sequence[FinishedRun]
) -> tuple[PlannedDevice | None, Alternative | None]:
    """The smallest device that holds it at no price but time, and how; else the largest, at the least price."""
    by_size = sorted(devices, key=lambda device: device.memory_bytes)
    found = None
    for device in by_size:
        found = cheapest_fit(spec, shape, device, rows, runs)
        if found and not found.cost:
            return device, found
    return (by_size[-1], found) if by_size else (None, None)


def _last_values(aim: Aim, spec: TrainingSpec, rows: Rows) -> list[PresetValue]:
    """What depends on the number of steps: where it ends at the latest, and how often held-out rows are measured."""
    held_out = round(aim.held_out * rows.count)
    share = aim.held_out if held_out >= _FEWEST_HELD_OUT else 0.0
    steps = workload_of(changed(spec, {"evaluation.fraction": share}), rows).steps
    if aim.max_steps:
        ends = [PresetValue(field="training.max_steps", value=aim.max_steps, reason="tells where the loss goes")]
        none = PresetValue(field="evaluation.fraction", value=0.0, reason="a first look needs none")
        return [*ends, none] if steps > aim.max_steps else [none]
    if not share:
        return [
            PresetValue(field="evaluation.fraction", value=0.0, reason=f"{rows.count:,} rows are too few to spare any")
        ]
    values = [
        PresetValue(
            field="evaluation.fraction",
            value=share,
            reason=f"{held_out:,} rows tell learning from learning by heart",
        ),
        PresetValue(
            field="evaluation.every_steps",
            value=max(1, steps // _EVALUATIONS),
            reason=f"about {_EVALUATIONS} times in {steps:,} steps",
        ),
    ]
    if aim.patience:
        reason = "so many measures in a row without a lower loss end it"
        values.append(PresetValue(field="evaluation.early_stopping_patience", value=aim.patience, reason=reason))
    return values
