"""Whether a run fits, where, how long it takes, and if it fits nowhere, what would fit at which cost.

    fits    need · (1 + spread) ≤ usable memory        tight    only the need itself ≤ usable        otherwise: does not

Alternatives are found by trying every change that costs quality, alone and in pairs, each together with as few as
possible of the changes that only cost time: smaller micro-batches and activation checkpointing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_hub.scheduling.changes import Changes, changed
from finetune_hub.scheduling.devices import PlannedDevice
from finetune_hub.scheduling.learning import Correction, FinishedRun, learn_memory, learn_speed
from finetune_hub.scheduling.memory import MemoryEstimate, dtype_on, estimate_memory
from finetune_hub.scheduling.speed import seconds_per_step
from finetune_hub.scheduling.workload import Rows, Workload, workload_of
from finetune_hub.spec.methods.registry import METHODS
from finetune_hub.spec.shape import Shape
from finetune_hub.spec.sizes import size_in_words
from finetune_hub.spec.training import TrainingSpec

Verdict = Literal["fits", "tight", "does_not_fit"]

_USABLE = {"cpu": 0.9, "cuda": 0.97}  # The rest is for the machine's other processes, or the driver's own.
_SHORTEST_ROW = 128


@dataclass(frozen=True)
class Option:
    """A change to the spec, and what it costs apart from time."""

    changes: Changes
    words: str
    quality: str
    """The cost in quality, in words."""
    cost: int
    """0: the same numbers; higher is worse."""


@dataclass(frozen=True)
class Alternative:
    """A changed spec that fits."""

    changes: Changes
    """Field of the spec → value."""
    words: str
    quality: str
    cost: int
    """0: the same numbers; higher is worse."""
    peak_bytes: float
    slowdown: float | None
    """Time of the whole run as a multiple of the unchanged one's; None: unknown."""


@dataclass(frozen=True)
class DevicePlan:
    """One spec on one device."""

    device: PlannedDevice
    memory: MemoryEstimate
    """Corrected by finished runs: the allocator's part absorbs the difference."""
    memory_correction: Correction
    verdict: Verdict
    load: Workload
    seconds_per_step: float | None
    speed_correction: Correction
    alternatives: tuple[Alternative, ...]

    @property
    def usable_bytes(self) -> float:
        return usable_bytes(self.device)

    @property
    def holds(self) -> bool:
        return self.verdict != "does_not_fit"

    @property
    def total_seconds(self) -> float | None:
        return None if self.seconds_per_step is None else self.seconds_per_step * self.load.steps

    @property
    def device_bytes_needed(self) -> int:
        """Memory that a device of this kind must have; includes the estimate's spread unless the fit is tight."""
        margin = 1.0 if self.verdict == "tight" else 1 + self.memory_correction.spread
        return int(self.memory.needed_bytes * margin / _USABLE[self.device.kind])

    def sentence(self) -> str:
        """Return the verdict with its numbers."""
        needs = f"about {size_in_words(self.memory.needed_bytes)} of {size_in_words(self.usable_bytes)} usable"
        if self.verdict == "fits":
            return f"It fits {self.device.name}: {needs}."
        if self.verdict == "tight":
            return f"It may just fit {self.device.name}: {needs}, which is within the estimate's margin of error."
        parts = {name: size for name, size in self.memory.parts().items() if name != "allocator"}
        largest = max(parts, key=lambda name: parts[name])
        return f"It does not fit {self.device.name}: {needs}; {largest} alone take {size_in_words(parts[largest])}."


def plan_on(
    spec: TrainingSpec,
    shape: Shape,
    device: PlannedDevice,
    rows: Rows,
    runs: Sequence[FinishedRun] = (),
    *,
    together: int = 1,
) -> DevicePlan:
    """Plan the spec on one device, with alternatives unless it surely fits.

    Args:
        together: the most devices of this kind that one machine has.
    """
    planner = _Planner(shape, device, rows, runs, together)
    memory, load, correction = planner.memory_of(spec)
    verdict = planner.verdict_of(spec)
    speed = learn_speed(runs, device, spec.method.type)
    return DevicePlan(
        device=device,
        memory=memory,
        memory_correction=correction,
        verdict=verdict,
        load=load,
        seconds_per_step=planner.seconds_of(spec),
        speed_correction=speed,
        alternatives=() if verdict == "fits" else tuple(planner.alternatives_to(spec)),
    )


def cheapest_fit(
    spec: TrainingSpec, shape: Shape, device: PlannedDevice, rows: Rows, runs: Sequence[FinishedRun] = ()
) -> Alternative | None:
    """Return the cheapest variant that surely fits, unchanged if possible; None: no variant does."""
    planner = _Planner(shape, device, rows, runs)
    if planner.verdict_of(spec) == "fits":
        return planner.alternative(spec, spec, _NOTHING, _NOTHING)
    return next(planner.alternatives_to(spec), None)


def device_bytes_needed(plans: Sequence[DevicePlan]) -> int | None:
    """Return the memory that each device of the run must have; None: it fits none of them.

    Kinds of device need different amounts: the result is the largest need that some fitting device can still meet.
    """
    room = max((plan.device.memory_bytes for plan in plans if plan.holds), default=0)
    needs = [plan.device_bytes_needed for plan in plans]
    return max((need for need in needs if need <= room), default=None)


def uneven_needs(plans: Sequence[DevicePlan]) -> str | None:
    """Return a note if a CPU and a GPU need different amounts, because a job has only one; None: they do not."""
    needs = {
        kind: max((plan.device_bytes_needed for plan in plans if plan.device.kind == kind and plan.holds), default=0)
        for kind in ("cpu", "cuda")
    }
    needed = device_bytes_needed(plans)
    if needed is None or not all(needs.values()) or needs["cpu"] == needs["cuda"]:
        return None
    cpu, gpu = size_in_words(needs["cpu"]), size_in_words(needs["cuda"])
    return (
        f"A CPU must have {cpu} and a GPU {gpu}. If the job may run on both, it waits for a device with the larger "
        f"amount, {size_in_words(needed)}, so that it does not start on one that is too small."
    )


def usable_bytes(device: PlannedDevice) -> float:
    return device.memory_bytes * _USABLE[device.kind]


_NOTHING = Option({}, "", "none: the same numbers", 0)


@dataclass(frozen=True)
class _Planner:
    """The plans of changing specs for one model, device and dataset."""

    shape: Shape
    device: PlannedDevice
    rows: Rows
    runs: Sequence[FinishedRun]
    together: int = 1
    """Devices of this kind in one machine."""

    def memory_of(self, spec: TrainingSpec) -> tuple[MemoryEstimate, Workload, Correction]:
        load = workload_of(spec, self.rows)
        estimate = estimate_memory(spec, self.shape, self.device, load)
        correction = learn_memory(self.runs, self.device, spec.method.type, estimate.peak_bytes)
        return estimate.corrected(correction.factor), load, correction

    def verdict_of(self, spec: TrainingSpec) -> Verdict:
        memory, _, correction = self.memory_of(spec)
        if memory.needed_bytes * (1 + correction.spread) <= usable_bytes(self.device):
            return "fits"
        return "tight" if memory.needed_bytes <= usable_bytes(self.device) else "does_not_fit"

    def seconds_of(self, spec: TrainingSpec) -> float | None:
        seconds = seconds_per_step(spec, self.shape, self.device, workload_of(spec, self.rows))
        factor = learn_speed(self.runs, self.device, spec.method.type).factor
        return None if seconds is None else seconds * factor

    def alternatives_to(self, spec: TrainingSpec) -> Iterator[Alternative]:
        """Yield variants that fit, by rising cost in quality; each one must cost less time than those before it."""
        free = list(_free(spec))
        for paid in sorted(self._paid(spec), key=lambda option: option.cost):
            for place, saved in enumerate(free):
                changes = paid.changes | saved.changes
                candidate = changed(spec, changes)
                if changes and self.verdict_of(candidate) == "fits":
                    yield self.alternative(spec, candidate, paid, saved)
                    free = free[:place]
                    break

    def alternative(self, spec: TrainingSpec, candidate: TrainingSpec, paid: Option, free: Option) -> Alternative:
        before, after = self.seconds_of(spec), self.seconds_of(candidate)
        return Alternative(
            changes=paid.changes | free.changes,
            words=" and ".join(option.words for option in (paid, free) if option.words),
            quality=paid.quality,
            cost=paid.cost,
            peak_bytes=self.memory_of(candidate)[0].needed_bytes,
            # Communication between GPUs was not measured.
            slowdown=after / before if before and after and not candidate.runtime.shard_base_model else None,
        )

    def _paid(self, spec: TrainingSpec) -> Iterator[Option]:
        yield _NOTHING
        singles = list(self._single_changes(spec))
        yield from singles
        for number, first in enumerate(singles):
            for second in singles[number + 1 :]:
                changes = first.changes | second.changes
                if changes.get("runtime.shard_base_model") and _packs(changes):
                    continue  # Packed weights cannot be sharded.
                if not first.changes.keys() & second.changes.keys():
                    yield Option(
                        changes,
                        f"{first.words}, {second.words}",
                        f"{first.quality}; {second.quality}",
                        10 + first.cost + second.cost,
                    )

    def _single_changes(self, spec: TrainingSpec) -> Iterator[Option]:
        options = spec.training
        yield from self._spread_over_more(spec)
        if options.optimizer == "adamw":
            name = "paged_adamw_8bit" if self.device.kind == "cuda" else "adamw_8bit"
            yield Option({"training.optimizer": name}, "an 8-bit optimizer", "almost none", 1)
        if dtype_on(spec, self.device) == "float32":
            words = "computing in bfloat16"
            yield Option({"runtime.dtype": "bfloat16"}, words, "small: frozen weights are rounded to 8 bits", 2)
        for saving in spec.method.savings():
            changes: Changes = {f"method.{name}": value for name, value in saving.changes.items()}
            if saving.packs_base and spec.runtime.shard_base_model:
                changes["runtime.shard_base_model"] = False
            yield Option(changes, saving.words, saving.quality, saving.cost)
        length = options.max_seq_len // 2
        while length >= _SHORTEST_ROW:
            lost = self.rows.share_lost(length)
            quality = "longer rows are truncated" if lost is None else f"{100 * lost:.1f}% of the tokens are truncated"
            yield Option({"training.max_seq_len": length}, f"rows of {length} tokens", quality, 5)
            length //= 2

    def _spread_over_more(self, spec: TrainingSpec) -> Iterator[Option]:
        """Yield the base model sharded over more GPUs of one machine, the fewest first."""
        if self.device.kind != "cuda" or spec.method.base_bits is not None:
            return
        gpus = spec.runtime.gpus * (2 if spec.runtime.shard_base_model or spec.runtime.gpus == 1 else 1)
        while gpus <= max(self.together, spec.runtime.gpus):
            changes = {"runtime.gpus": gpus, "runtime.shard_base_model": True}
            yield Option(changes, f"the base model sharded over {gpus} GPUs", _NOTHING.quality, 0)
            gpus *= 2


def _packs(changes: Changes) -> bool:
    """Return whether the changes quantize the base model."""
    chosen = METHODS.get(changes.get("method.type", ""))
    return chosen is not None and chosen.quantised_type == changes["method.type"]


def _free(spec: TrainingSpec) -> Iterator[Option]:
    """Yield changes that only cost time, cheapest first: none, smaller micro-batches, activation checkpointing."""
    options = spec.training
    total = options.micro_batch_size * options.gradient_accumulation_steps
    smaller = []
    size = options.micro_batch_size // 2
    while size:
        changes = {"training.micro_batch_size": size, "training.gradient_accumulation_steps": -(-total // size)}
        smaller.append(Option(changes, f"micro-batches of {size}", "", 0))
        size //= 2
    yield Option({}, "", "", 0)
    yield from smaller
    if not spec.runtime.activation_checkpointing:
        anew = Option({"runtime.activation_checkpointing": True}, "activation checkpointing", "", 0)
        yield anew
        for option in smaller:
            yield Option(anew.changes | option.changes, f"{anew.words} and {option.words}", "", 0)
