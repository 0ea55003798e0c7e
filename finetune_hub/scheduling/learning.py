"""What finished runs teach the planner: by how much a device's runs differ from the estimate, and how sure that is.

    factor   exp( n / (n + k) · median of log(measured / estimated) )      n runs; k pulls few of them towards 1
    spread   of the runs around their median, mixed with what is expected before any run: one run has no spread

Runs are asked from the nearest on: the same device and method, the same device, the same kind of device. Of memory only
runs of like size teach: what a small run needs beside its weights says nothing of a large one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from finetune_hub.scheduling.devices import PlannedDevice

_MAD_TO_DEVIATION = 1.48  # Of normally distributed numbers.
_MEMORY_PRIOR = (1.0, {"cpu": 0.08, "cuda": 0.15})  # k, and the expected spread: docs/planner.md says from where.
_SPEED_PRIOR = (0.25, {"cpu": 0.5, "cuda": 0.7})
_LEAST_SPREAD = 0.03
_LIKE_SIZE = 4.0
_SPREAD_RUNS = 2  # So many runs weigh as much as the expectation.


@dataclass(frozen=True)
class FinishedRun:
    """What was estimated of a run, by today's formulas, and what it really took."""

    device_kind: str
    device_name: str
    method: str
    estimated_bytes: float
    memory_ratio: float
    """Measured over estimated peak."""
    time_ratio: float | None
    """Measured over estimated seconds a step; None: no estimate."""


@dataclass(frozen=True)
class Correction:
    """What to multiply an estimate with, and how far off it may still be."""

    factor: float
    spread: float
    runs: int
    scope: str
    """Whose runs, in words; empty without any."""

    def sureness(self, what: str) -> str:
        """How sure the corrected estimate is, in a sentence."""
        within = f"within about {100 * self.spread:.0f}%"
        if not self.runs:
            return f"{what}: from formulas alone, no run was seen yet; {within}."
        word = "sure" if self.runs >= 8 and self.spread < 0.1 else "fairly sure" if self.runs >= 3 else "not yet sure"
        runs = "one finished run" if self.runs == 1 else f"{self.runs} finished runs"
        return f"{what}: {word}, corrected by {runs} {self.scope}; {within}."


def learn_memory(runs: Sequence[FinishedRun], device: PlannedDevice, method: str, estimated_bytes: float) -> Correction:
    """The correction of a peak that the formulas put at `estimated_bytes`."""
    k, expected = _MEMORY_PRIOR
    like = [run for run in runs if _is_near(run.estimated_bytes / estimated_bytes) and _is_near(run.memory_ratio)]
    near, scope = _nearest(like, device, method)
    return _correction([run.memory_ratio for run in near], k, expected[device.kind], scope)


def learn_speed(runs: Sequence[FinishedRun], device: PlannedDevice, method: str) -> Correction:
    """The correction of a step's seconds."""
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
