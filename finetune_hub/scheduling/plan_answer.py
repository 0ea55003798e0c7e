"""A plan as a document: what the API returns, the page shows, and `finetune-hub plan` prints with or without a hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from finetune_hub.scheduling.fitting import Alternative, DevicePlan, Verdict
from finetune_hub.spec.answer import Answer
from finetune_hub.spec.sizes import size_in_words


class AlternativeAnswer(Answer):
    """A change that makes the run fit."""

    changes: dict[str, Any] = Field(description="Field of the spec → value, such as `training.micro_batch_size`: 1.")
    words: str
    quality: str = Field(description="What it costs in quality, in words.")
    peak_bytes: int
    slowdown: float | None = Field(description="The whole run's time as a multiple of the unchanged run's.")

    def sentence(self) -> str:
        """Return what to change, and the result."""
        fields = ", ".join(f"`{field}: {str(value).lower()}`" for field, value in self.changes.items())
        time = "" if self.slowdown is None else f", {self.slowdown:g} times the time"
        return f"{fields} ({size_in_words(self.peak_bytes)}{time}; quality: {self.quality})"

    @classmethod
    def of(cls, alternative: Alternative) -> AlternativeAnswer:
        return cls(
            changes=alternative.changes,
            words=alternative.words,
            quality=alternative.quality,
            peak_bytes=round(alternative.peak_bytes),
            slowdown=None if alternative.slowdown is None else round(alternative.slowdown, 2),
        )


class DeviceAnswer(Answer):
    """The run on one kind of device."""

    name: str
    kind: str
    count: int = Field(description="How many of them the hub has.")
    memory_bytes: int
    usable_bytes: int
    verdict: Verdict
    sentence: str
    peak_bytes: int
    parts: dict[str, int] = Field(description="Bytes of the peak: weights, adapters, gradients, optimizer, …")
    steps: int
    seconds_per_step: float | None = Field(description="null: such a device has not been measured yet.")
    total_seconds: float | None
    gpu_hours: float | None = Field(description="Device hours of all the run's devices together.")
    sureness: list[str] = Field(description="How certain memory and time are, one sentence each.")
    alternatives: list[AlternativeAnswer] = Field(description="What would fit, the lowest cost in quality first.")

    @classmethod
    def of(cls, plan: DevicePlan, *, count: int, gpus: int) -> DeviceAnswer:
        seconds = plan.total_seconds
        return cls(
            name=plan.device.name,
            kind=plan.device.kind,
            count=count,
            memory_bytes=plan.device.memory_bytes,
            usable_bytes=round(plan.usable_bytes),
            verdict=plan.verdict,
            sentence=plan.sentence(),
            peak_bytes=round(plan.memory.peak_bytes),
            parts={name: round(size) for name, size in plan.memory.parts().items()},
            steps=plan.load.steps,
            seconds_per_step=plan.seconds_per_step,
            total_seconds=seconds,
            gpu_hours=None if seconds is None else seconds * gpus / 3600,
            sureness=[plan.memory_correction.sureness("Memory"), plan.speed_correction.sureness("Time")],
            alternatives=[AlternativeAnswer.of(alternative) for alternative in plan.alternatives],
        )


def _rank(plan: DevicePlan) -> tuple[int, float]:
    """Return a sort key: the surest fit first, then the fastest; if nothing fits, the largest device first."""
    order: list[Verdict] = ["fits", "tight", "does_not_fit"]
    by = -plan.usable_bytes if plan.verdict == "does_not_fit" else plan.total_seconds or 0.0
    return order.index(plan.verdict), by


class PlanAnswer(Answer):
    """Whether the run fits, where, and what would fit otherwise."""

    fits: bool = Field(description="Whether some device has room for it, even if only just.")
    sentence: str
    assumptions: list[str] = Field(description="What was unknown and what was assumed instead.")
    devices: list[DeviceAnswer] = Field(description="The best fit first.")

    @classmethod
    def of(cls, plans: Sequence[tuple[DevicePlan, int]], *, gpus: int, assumptions: Sequence[str] = ()) -> PlanAnswer:
        """Build the answer from a plan and a count per kind of device."""
        ranked = sorted(plans, key=lambda pair: _rank(pair[0]))
        devices = [DeviceAnswer.of(plan, count=count, gpus=gpus) for plan, count in ranked]
        fits = bool(devices) and devices[0].verdict != "does_not_fit"
        if not devices:
            sentence = "No device has joined yet, so nothing can be planned. Start a worker with `finetune-hub up`."
        elif fits or len(devices) == 1:
            sentence = devices[0].sentence
        else:
            sentence = f"It fits none of the {len(devices)} kinds of device here. {devices[0].sentence}"
        return cls(fits=fits, sentence=sentence, assumptions=list(assumptions), devices=devices)
