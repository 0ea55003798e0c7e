"""What placement is told: the waiting jobs, the devices, what runs on them, and the teams. Times are unix seconds.

A device is lent whole, or, where the admin permits it, in parts to jobs whose need of memory is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

OVERDUE_SHARE = 0.1
IMPORTS = "imports"
"""Kind of a place beside a worker's GPUs, where an import downloads without holding one of them."""


@dataclass(frozen=True, slots=True)
class WaitingJob:
    job_id: str
    team_id: int
    queued_at: float
    devices: int = 1
    """All of one worker and of one kind."""
    memory_bytes: int = 0
    """That each of its devices must have; 0: unknown, so it takes any, and takes it whole."""
    wish: str = ""
    """Words that are all in the device's kind or name, such as `cpu`, `gpu` or `a100 80gb`."""
    labels: frozenset[str] = frozenset()
    """That the worker must have."""
    priority: int = 0
    expected_seconds: float | None = None
    prefers_cpu: bool = False
    """It computes little: a place for imports does. Others go to CPUs only by wish, or where no GPU would do."""
    excluded_devices: frozenset[int] = frozenset()
    """That have failed it."""
    barred_devices: frozenset[int] = frozenset()
    """Of workers that may not take it."""
    preferred_workers: frozenset[int] = frozenset()
    """Those that hold its base model already."""
    avoided_worker: int | None = None
    """It was lost with the job's last attempt, and may not be back in truth: the last choice among its like."""

    @property
    def closed_devices(self) -> frozenset[int]:
        """Those that it does not get, however free they are."""
        return self.excluded_devices | self.barred_devices

    @property
    def hours(self) -> float | None:
        """Device hours that it is expected to take."""
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
    """Whether several jobs may be on it at a time, as far as its memory goes."""
    away: str = ""
    """Why it gets no new job now, in a word such as `drained`; empty: it does."""


@dataclass(frozen=True, slots=True)
class Run:
    """An attempt that holds devices."""

    attempt_id: int
    team_id: int
    device_ids: tuple[int, ...]
    memory_bytes: int | None = None
    """Its part of a shared device; None: it has its devices whole."""
    share: float = 1.0
    """The same of each device's memory: what its time counts for."""
    started_at: float = 0.0
    expected_end: float | None = None
    priority: int = 0
    may_be_preempted: bool = False
    """It can go on from a checkpoint, was not preempted too often, and is not being stopped already."""

    def end_seen_from(self, now: float) -> float:
        """When it will end; one that is overdue gets a tenth of the time that it took. Infinity: nobody knows."""
        if self.expected_end is None:
            return math.inf
        return self.expected_end if self.expected_end > now else now + OVERDUE_SHARE * (now - self.started_at)


@dataclass(frozen=True, slots=True)
class TeamShare:
    """What a team may have, and what it had."""

    team_id: int
    name: str
    weight: float = 1.0
    recent_seconds: float = 0.0
    """Device seconds that its attempts took, older ones counting less."""
    last_start: float = 0.0
    """When something of it was last given a device."""
    max_devices: int | None = None
    max_hours: float | None = None
    """Device hours a month."""
    used_hours: float = 0.0
    """Of this month."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that a decision depends on."""

    now: float
    next_month: float
    """When the teams' device hours start anew."""
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
