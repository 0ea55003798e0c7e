"""Plan panel of the new-job form: memory as a bar of parts, scaled to the larger of need and device memory."""

from __future__ import annotations

from typing import NamedTuple

from finetune_hub.scheduling.plan_answer import DeviceAnswer, PlanAnswer

BAR_WIDTH = 1000  # In units of the SVG.


class Segment(NamedTuple):
    """One part of the bar."""

    name: str
    size_bytes: int
    x: float
    width: float


class DeviceBar(NamedTuple):
    """The bar of one device."""

    device: DeviceAnswer
    segments: list[Segment]
    limit_x: float
    """The end of the usable memory."""


def bars_of(answer: PlanAnswer) -> list[DeviceBar]:
    return [_bar_of(device) for device in answer.devices]


def _bar_of(device: DeviceAnswer) -> DeviceBar:
    scale = BAR_WIDTH / max(device.memory_bytes, device.peak_bytes)
    segments, x = [], 0.0
    for name, size_bytes in device.parts.items():
        if size_bytes:
            segments.append(Segment(name, size_bytes, round(x, 1), round(size_bytes * scale, 1)))
            x += size_bytes * scale
    return DeviceBar(device, segments, round(device.usable_bytes * scale, 1))
