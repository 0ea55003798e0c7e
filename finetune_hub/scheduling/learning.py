"""What the planner learns from finished runs: how much they differ from the estimate, and how certain that is.

    factor   exp( n / (n + k) · median of log(measured / estimated) )      n runs; k pulls the factor of few runs to 1
    spread   of the runs around their median, mixed with a prior, because one run has no spread

The closest runs are used: the same device and method, otherwise the same device, otherwise the same kind of device. For
memory only runs of similar size count: the overhead of a small run says nothing about a large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from finetune_hub.scheduling.devices import PlannedDevice

_MAD_TO_DEVIATION = 1.48  # Of normally distributed numbers.
_MEMORY_PRIOR = (1.0, {"cpu": 0.08, "cuda": 0.15})  # k, and the expected spread: see docs/planner.md.
_SPEED_PRIOR = (0.25, {"cpu": 0.5, "cuda": 0.7})
_LEAST_SPREAD = 0.03
_LIKE_SIZE = 4.0
_SPREAD_RUNS = 2  # The prior's spread weighs as much as this many runs.


@dataclass(frozen=True)
class FinishedRun:
    """A finished run's estimate, by today's formulas, and what it really took."""

    device_kind: str
    device_name: str
    method: str
    estimated_bytes: float
    memory_ratio: float
    """Measured over estimated peak."""
    time_ratio: float | None
    """Measured over estimated seconds per step; None: no estimate."""


@dataclass(frozen=True)
class Correction:
    """The factor to multiply an estimate by, and how far off it may still be."""

    factor: float
    spread: float
    runs: int
    scope: str
    """Which runs it is based on, in words; empty without any."""

    def sureness(self, what: str) -> str:
        """Return a sentence on how certain the corrected estimate is."""
        within = f"within about {100 * self.spread:.0f}%"
        if not self.runs:
            return f"{what}: from formulas alone, because no such run has finished yet; {within}."
        word = "sure" if self.runs >= 8 and self.spread < 0.1 else "fairly sure" if self.runs >= 3 else "not yet sure"
        runs = "one finished run" if self.runs == 1 else f"{self.runs} finished runs"
        return f"{what}: {word}, corrected by {runs} {self.scope}; {within}."


def learn_memory(runs: Sequence[FinishedRun], device: PlannedDevice, method: str, estimated_bytes: float) -> Correction:
    """Return the correction for a peak that the formulas estimate at `estimated_bytes`."""
    k, expected = _MEMORY_PRIOR
    like = [run for run in runs if _is_near(run.estimated_bytes / estimated_bytes) and _is_near(run.memory_ratio)]
    near, scope = _nearest(like, device, method)
    return _correction([run.memory_ratio for run in near], k, expected[device.kind], scope)


def learn_speed(runs: Sequence[FinishedRun], device: PlannedDevice, method: str) -> Correction:
    """Return the correction for the seconds of a step."""
    k, expected = _SPEED_PRIOR
    near, scope = _nearest([run for run in runs if run.time_ratio is not None], device, method)
    return _correction([run.time_ratio for run in near if run.time_ratio], k, expected[device.kind], scope)


def _is_near(ratio: float) -> bool:
    return 1 / _LIKE_SIZE <= ratio <= _LIKE_SIZE


def _nearest(runs: Sequence[FinishedRun], device: PlannedDevice, method: str) -> tuple[Sequence[FinishedRun], str]:
    here: Callable[[FinishedRun], bool] = lambda run: run.device_name == device.name  # noqa: E731
    scopes: list[tuple[str, Callable[[FinishedRun], bool]]] = [
        (f"of {method} on this device", lambda run: here(run) and run.method == method),
        ("on this device", here),
        (f"on a {'CPU' if device.kind == 'cpu' else 'GPU'}", lambda run: run.device_kind == device.kind),
    ]
    for scope, belongs in scopes:
        near = [run for run in runs if belongs(run)]
        if near:
            return near, scope
    return [], ""


def _correction(ratios: Sequence[float], k: float, expected_spread: float, scope: str) -> Correction:
    count = len(ratios)
    if not count:
        return Correction(1.0, expected_spread, 0, "")
    logs = [math.log(ratio) for ratio in ratios]
    middle = median(logs)
    own_spread = _MAD_TO_DEVIATION * median(abs(log - middle) for log in logs)
    spread = ((count - 1) * own_spread + _SPREAD_RUNS * expected_spread) / (count - 1 + _SPREAD_RUNS)
    return Correction(math.exp(count / (count + k) * middle), max(_LEAST_SPREAD, spread), count, scope)
