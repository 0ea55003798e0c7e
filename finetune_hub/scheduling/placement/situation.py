"""The input of placement: the waiting jobs, the devices, their runs, and the teams. Times are unix seconds.

A device is lent whole or, if the admin allows it, in parts to jobs whose memory needs are known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OVERDUE_SHARE = 0.1
IMPORTS = "imports"
"""Kind of a slot next to a worker's devices, where an import downloads without holding a device."""


@dataclass(frozen=True, slots=True)
class WaitingJob:
    job_id: str
    team_id: int
    queued_at: float
    devices: int = 1
    """All on one worker and of one kind."""
    memory_bytes: int = 0
    """What each of its devices must have; 0: unknown, so it takes any device, and takes it whole."""
    wish: str = ""
    """Words that must all be in the device's kind or name, such as `cpu`, `gpu` or `a100 80gb`."""
    labels: frozenset[str] = frozenset()
    """Labels that the worker must have."""
    priority: int = 0
    expected_seconds: float | None = None
    prefers_cpu: bool = False
    """It computes little, so an import slot is enough. Others get a CPU only on request or if no GPU is suitable."""
    excluded_devices: frozenset[int] = frozenset()
    """Devices on which it has failed."""
    barred_devices: frozenset[int] = frozenset()
    """Devices of workers that may not take it."""
    preferred_workers: frozenset[int] = frozenset()
    """Workers that already have its base model."""
    avoided_worker: int | None = None
    """The worker lost with the job's last attempt, which may not really be back: the last choice of its pool."""

    @property
    def closed_devices(self) -> frozenset[int]:
        """Devices that it does not get even if they are free."""
        return self.excluded_devices | self.barred_devices

    @property
    def hours(self) -> float | None:
        """Expected device hours; None: unknown."""
        return None if self.expected_seconds is None else self.devices * self.expected_seconds / 3600


@dataclass(frozen=True, slots=True)
class Device:
    device_id: int
    worker_id: int
    worker: str
    kind: str
    name: str
    memory_bytes: int
    labels: frozenset[str] = frozenset()
    is_shared: bool = False
    """Whether several jobs may use it at a time, within its memory."""
    max_runs: int | None = None
    """How many of them at most, such as a CPU's cores; None: any number."""
    away: str = ""
    """Why it gets no new jobs now, in a word such as `drained`; empty if it does."""


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt that holds devices."""

    attempt_id: int
    team_id: int
    device_ids: tuple[int, ...]
    memory_bytes: int | None = None
    """Its part of a shared device; None: it has its devices whole."""
    share: float = 1.0
    """The same as a share of each device's memory: its device time is multiplied by it."""
    started_at: float = 0.0
    expected_end: float | None = None
    priority: int = 0
    may_be_preempted: bool = False
    """It can resume from a checkpoint, was not preempted too often, and is not being stopped already."""

    def end_seen_from(self, now: float) -> float:
        """Return its expected end; an overdue run gets another tenth of its time so far. Infinity: unknown."""
        if self.expected_end is None:
            return math.inf
        return self.expected_end if self.expected_end > now else now + OVERDUE_SHARE * (now - self.started_at)


@dataclass(frozen=True, slots=True)
class TeamShare:
    """A team's quota and use."""

    team_id: int
    name: str
    weight: float = 1.0
    recent_seconds: float = 0.0
    """Device seconds that its attempts took; older ones count less."""
    last_start: float = 0.0
    """When one of its jobs last got a device."""
    max_devices: int | None = None
    max_hours: float | None = None
    """Device hours per month."""
    used_hours: float = 0.0
    """Device hours used this month."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision depends on."""

    now: float
    next_month: float
    """When the teams' device hours reset."""
    queue: Sequence[WaitingJob]
    devices: Sequence[Device]
    runs: Sequence[Run]
    teams: Sequence[TeamShare]


@dataclass(frozen=True, slots=True)
class Assignment:
    job_id: str
    worker_id: int
    device_ids: tuple[int, ...]
    memory_bytes: int | None = None
    """Its part of a shared device; None: it has its devices whole."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """A run to stop, checkpoint first, because a job of higher priority would otherwise wait."""

    attempt_id: int
    for_job_id: str
