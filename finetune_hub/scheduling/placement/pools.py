"""Which devices are free now: pools of identical devices, so that ten thousand jobs query a dozen pools, not a fleet.

A device is idle, lent whole, lent in parts, or reserved. A reserved device goes to another job only if that job is
expected to end before the reservation begins.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from finetune_hub.scheduling.placement.situation import IMPORTS, Assignment, Device, Run, WaitingJob

Suitable = tuple[int, ...]
"""Pool numbers, best choice first."""


@dataclass
class Pool:
    """Devices that are the same in everything that a job may require."""

    kind: str
    name: str
    memory_bytes: int
    labels: frozenset[str]
    is_shared: bool
    max_runs: int | None
    devices: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Worker → its devices, busy or not."""
    idle: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Worker → its devices that are free and not reserved."""
    kept: dict[int, list[int]] = field(default_factory=dict)
    """Worker → its devices that are free but reserved; only workers with such devices."""
    parts: dict[int, int] = field(default_factory=dict)
    """Device lent in parts → bytes left."""
    runs: dict[int, int] = field(default_factory=dict)
    """Device lent in parts → how many jobs share it."""

    def has_place(self, device: int) -> bool:
        """Return whether another job may share the device, if there is memory for it."""
        return self.max_runs is None or self.runs.get(device, 0) < self.max_runs


def matches(job: WaitingJob, kind: str, name: str, memory_bytes: int, labels: frozenset[str]) -> bool:
    """Return whether one such device could run one process of the job, if nothing else ran there."""
    if memory_bytes < job.memory_bytes or not job.labels <= labels or (kind == IMPORTS and not job.prefers_cpu):
        return False
    return not job.wish or words_of(job.wish) <= words_of(name) | {kind, "cpu" if kind == "cpu" else "gpu"}


@lru_cache(maxsize=1024)
def words_of(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", text.lower()))


def right_kinds(job: WaitingJob, kinds: set[str]) -> set[str]:
    """Return which of the kinds that could run the job it may get: no CPU if a GPU could run it, or the reverse.

    An import waits for a slot rather than take a device: a slow download would keep it from the trainings.
    """
    if job.prefers_cpu:
        return kinds & {IMPORTS} or kinds & {"cpu"} or kinds
    return kinds - {"cpu"} if len(kinds) > 1 and not job.wish else kinds


def forgive(job: WaitingJob, devices: Iterable[Device]) -> WaitingJob:
    """Let a job use the devices on which it failed, if no worker has enough other suitable ones."""
    if not job.excluded_devices:
        return job
    suitable = [d for d in devices if matches(job, d.kind, d.name, d.memory_bytes, d.labels)]
    kinds = right_kinds(job, {device.kind for device in suitable})
    others = Counter(
        device.worker_id
        for device in suitable
        if device.kind in kinds and not device.away and device.device_id not in job.closed_devices
    )
    if any(count >= job.devices for count in others.values()):
        return job
    return replace(job, excluded_devices=frozenset())


class Pools:
    """The fleet's free devices, updated as a pass assigns them.

    Args:
        devices: all devices. One that is away gets no job, but jobs that it could run do not fall back to a CPU.
    """

    def __init__(self, devices: Sequence[Device], runs: Sequence[Run]) -> None:
        self.pools: list[Pool] = []
        self.pool_of: dict[int, Pool] = {}
        self.worker_of: dict[int, int] = {}
        self.kept_until: dict[int, float] = {}
        self.lent_now: set[int] = set()
        """Devices lent by this pass."""
        self._facts = {(device.kind, device.name, device.memory_bytes, device.labels) for device in devices}
        self._suitable: dict[tuple[object, ...], Suitable] = {}
        self._exhausted: set[tuple[Suitable, int]] = set()
        held = self._parts_held(runs)
        sharing = Counter(device for run in runs for device in run.device_ids)
        numbers: dict[tuple[object, ...], int] = {}
        for device in sorted(devices, key=lambda device: device.device_id):
            if device.away:
                continue
            facts = (device.kind, device.name, device.memory_bytes, device.labels, device.is_shared, device.max_runs)
            if facts not in numbers:
                numbers[facts] = len(self.pools)
                self.pools.append(Pool(*facts))
            self._add(device, self.pools[numbers[facts]], held.get(device.device_id), sharing[device.device_id])

    def suitable(self, job: WaitingJob) -> Suitable:
        """Return the pools whose devices can run the job: the tightest fit first, so that large devices stay free."""
        key = (job.wish, job.labels, job.prefers_cpu, job.memory_bytes)
        found = self._suitable.get(key)
        if found is None:
            kinds = right_kinds(job, {facts[0] for facts in self._facts if matches(job, *facts)})
            numbers = [
                number
                for number, pool in enumerate(self.pools)
                if pool.kind in kinds and matches(job, pool.kind, pool.name, pool.memory_bytes, pool.labels)
            ]
            numbers.sort(key=lambda number: self._preference(job, self.pools[number]))
            found = self._suitable[key] = tuple(numbers)
        return found

    def take(self, job: WaitingJob, suitable: Suitable, *, now: float) -> Assignment | None:
        """Lend the job free devices: idle ones, otherwise part of one, otherwise ones reserved from after its end."""
        place = self._idle_place(job, suitable) or self._part(job, suitable, now) or self._gap(job, suitable, now)
        return None if place is None else self._lend(job, *place)

    def keep(self, devices: Iterable[int], *, until: float) -> None:
        """Reserve devices, including busy ones, from a time on. If that time is unknown, no other job gets them.

        A later reservation of the same device begins when the first one ends, so only the first one counts.
        """
        for device in devices:
            self.kept_until.setdefault(device, -math.inf if math.isinf(until) else until)
            pool, worker = self.pool_of[device], self.worker_of[device]
            if device in pool.idle[worker]:
                pool.idle[worker].remove(device)
                pool.kept.setdefault(worker, []).append(device)

    # ---- finding

    def _idle_place(self, job: WaitingJob, suitable: Suitable) -> tuple[Pool, int, list[int]] | None:
        if (suitable, job.devices) in self._exhausted:
            return None
        for number in suitable:
            pool = self.pools[number]
            free = pool.idle
            if job.closed_devices:
                free = {worker: _without(devices, job.closed_devices) for worker, devices in pool.idle.items()}
            workers = [worker for worker, devices in free.items() if len(devices) >= job.devices]
            if workers:
                worker = min(
                    workers,
                    key=lambda w: (w == job.avoided_worker, w not in job.preferred_workers, len(free[w]), w),
                )
                return pool, worker, free[worker][: job.devices]
        if not job.closed_devices:
            self._exhausted.add((suitable, job.devices))
        return None

    def _part(self, job: WaitingJob, suitable: Suitable, now: float) -> tuple[Pool, int, list[int]] | None:
        """Find the shared device on which the job leaves the least memory free."""
        if job.devices > 1 or not job.memory_bytes:
            return None
        for number in suitable:
            pool = self.pools[number]
            rooms = pool.parts and [
                (room, device)
                for device, room in pool.parts.items()
                if room >= job.memory_bytes
                and pool.has_place(device)
                and device not in job.closed_devices
                and self._admits(device, job, now)
            ]
            if rooms:
                device = min(rooms)[1]
                return pool, self.worker_of[device], [device]
        return None

    def _gap(self, job: WaitingJob, suitable: Suitable, now: float) -> tuple[Pool, int, list[int]] | None:
        """Backfill: find devices reserved from after the job's end, together with idle devices of the same worker."""
        if job.expected_seconds is None or not self.kept_until:
            return None
        for number in suitable:
            pool = self.pools[number]
            for worker, kept in pool.kept.items():
                open_now = [device for device in kept if self._admits(device, job, now)]
                free = _without([*pool.idle[worker], *open_now], job.closed_devices) if open_now else []
                if len(free) >= job.devices:
                    return pool, worker, free[: job.devices]
        return None

    def _admits(self, device: int, job: WaitingJob, now: float) -> bool:
        """Return whether the job ends before the device's reservation begins."""
        if device not in self.kept_until:
            return True
        return job.expected_seconds is not None and now + job.expected_seconds <= self.kept_until[device]

    # ---- lending

    def _lend(self, job: WaitingJob, pool: Pool, worker: int, devices: list[int]) -> Assignment:
        in_part = pool.is_shared and job.devices == 1 and job.memory_bytes > 0
        self.lent_now.update(devices)
        for device in devices:
            for free in (pool.idle, pool.kept):
                if device in free.get(worker, ()):
                    free[worker].remove(device)
            if in_part:
                pool.parts[device] = pool.parts.get(device, pool.memory_bytes) - job.memory_bytes
                pool.runs[device] = pool.runs.get(device, 0) + 1
        return Assignment(job.job_id, worker, tuple(devices), job.memory_bytes if in_part else None)

    def _add(self, device: Device, pool: Pool, held_bytes: float | None, run_count: int) -> None:
        self.pool_of[device.device_id] = pool
        self.worker_of[device.device_id] = device.worker_id
        pool.devices[device.worker_id].append(device.device_id)
        if held_bytes is None:
            pool.idle[device.worker_id].append(device.device_id)
        elif device.is_shared and held_bytes < device.memory_bytes:
            pool.parts[device.device_id] = device.memory_bytes - int(held_bytes)
            pool.runs[device.device_id] = run_count

    @staticmethod
    def _parts_held(runs: Iterable[Run]) -> dict[int, float]:
        """Return device → bytes of it that are lent; infinity if it is lent whole."""
        held: defaultdict[int, float] = defaultdict(float)
        for run in runs:
            for device in run.device_ids:
                held[device] += math.inf if run.memory_bytes is None else run.memory_bytes
        return held

    @staticmethod
    def _preference(job: WaitingJob, pool: Pool) -> tuple[object, ...]:
        return (
            pool.kind != IMPORTS,
            (pool.kind == "cpu") != job.prefers_cpu,
            pool.memory_bytes,
            pool.name,
            sorted(pool.labels),
            pool.is_shared,
        )


def _without(devices: Iterable[int], excluded: frozenset[int]) -> list[int]:
    return [device for device in devices if device not in excluded] if excluded else list(devices)
