"""Which waiting job gets which free device: a pure function, so that it can be tested and simulated without a service.

Policy: first come, first served; one device a job. Priority, quotas and back-fill will widen `plan`, not replace it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class WaitingJob:
    job_id: str
    excluded: frozenset[int] = frozenset()
    """Devices that have failed it."""


@dataclass(frozen=True)
class FreeDevice:
    device_id: int
    worker_id: int
    memory_bytes: int


@dataclass(frozen=True)
class Assignment:
    job_id: str
    worker_id: int
    device_ids: tuple[int, ...]


@dataclass(frozen=True)
class Fleet:
    """What the reasons are made of: how many devices there are, work at all, and are being drained."""

    devices: int
    usable_devices: int
    draining_devices: int = 0


@dataclass(frozen=True)
class Plan:
    assignments: tuple[Assignment, ...]
    waiting_reasons: dict[str, str]


def plan(queue: Sequence[WaitingJob], free: Sequence[FreeDevice], fleet: Fleet) -> Plan:
    """Assign devices to the queue's head, and say to everyone else why they wait.

    Args:
        queue: waiting jobs in order, each once.
        free: devices that no attempt holds, on workers that are fit for work.
    """
    devices = sorted(free, key=lambda device: (-device.memory_bytes, device.device_id))
    assignments, waiting = [], []
    for job in queue:
        device = next((device for device in devices if device.device_id not in job.excluded), None)
        if device is None:
            waiting.append(job)
        else:
            devices.remove(device)
            assignments.append(Assignment(job.job_id, device.worker_id, (device.device_id,)))
    return Plan(
        assignments=tuple(assignments),
        waiting_reasons={job.job_id: waiting_reason(place, fleet) for place, job in enumerate(waiting, start=1)},
    )


def waiting_reason(place: int, fleet: Fleet) -> str:
    """A sentence with facts: what blocks the job that is `place`th in line."""
    if fleet.devices == 0:
        return "No worker has joined yet. Start one with `finetune-hub up`."
    if fleet.draining_devices == fleet.devices:
        return "Every worker is drained: no new job starts until an admin resumes one on the Workers page."
    if fleet.usable_devices == 0:
        return "No worker is fit for work: each one is offline, unhealthy or drained. See the Workers page."
    line = "Next in line" if place == 1 else f"Number {place} in line"
    busy = "the one device is busy" if fleet.usable_devices == 1 else f"all {fleet.usable_devices} devices are busy"
    return f"{line}: {busy}."
