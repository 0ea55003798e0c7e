"""When each device is expected to be free: where a waiting job can start first, and when.

A job starts on a worker when the n-th of its suitable devices is free. During a pass those times only move later, so a
heap per pool only has to recheck its top.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable
from dataclasses import dataclass

from finetune_hub.scheduling.placement.pools import Pools, Suitable
from finetune_hub.scheduling.placement.situation import Run, WaitingJob


@dataclass(frozen=True, slots=True)
class Slot:
    """Devices of one worker, and the time when all of them are free; infinity: unknown."""

    start: float
    device_ids: tuple[int, ...]


_Key = tuple[float, int, int]  # When the n-th device is free, how many of the n have no known time, the worker.


class Timeline:
    def __init__(self, pools: Pools, runs: Iterable[Run], *, now: float) -> None:
        self._pools = pools
        self._now = now
        self._free_at = dict.fromkeys(pools.pool_of, now)
        self._heaps: dict[tuple[int, int], list[_Key]] = {}
        for run in runs:
            self.occupy(run.device_ids, until=run.end_seen_from(now))

    def occupy(self, devices: Iterable[int], *, until: float) -> None:
        """Mark the devices as busy until then, or longer if they already were."""
        for device in devices:
            if device in self._free_at:
                self._free_at[device] = max(until, self._free_at[device])

    def book(self, job: WaitingJob, slot: Slot) -> None:
        """Mark the slot's devices as busy with the job."""
        seconds = math.inf if job.expected_seconds is None else job.expected_seconds
        self.occupy(slot.device_ids, until=slot.start + seconds)

    def earliest(self, job: WaitingJob, suitable: Suitable) -> Slot | None:
        """Find where the job can start first. None: no worker has enough suitable devices."""
        best: tuple[_Key, int] | None = None
        for number in suitable:
            top = self._scan(job, number) if job.closed_devices else self._top(number, job.devices)
            if top is not None and (best is None or top < best[0]):
                best = top, number
            if best is not None and best[0][0] <= self._now:
                break
        if best is None:
            return None
        (start, _, worker), number = best
        return Slot(start, tuple(self._first_free(number, worker, job.devices, job.closed_devices)))

    def _top(self, number: int, count: int) -> _Key | None:
        heap = self._heaps.get((number, count))
        if heap is None:
            workers = self._pools.pools[number].devices
            heap = [self._key(number, worker, count) for worker, owned in workers.items() if len(owned) >= count]
            heapq.heapify(heap)
            self._heaps[number, count] = heap
        while heap:
            key = self._key(number, heap[0][2], count)
            if key == heap[0]:
                return key
            heapq.heapreplace(heap, key)
        return None

    def _scan(self, job: WaitingJob, number: int) -> _Key | None:
        keys = [
            self._key(number, worker, job.devices, job.closed_devices)
            for worker, owned in self._pools.pools[number].devices.items()
            if len(set(owned) - job.closed_devices) >= job.devices
        ]
        return min(keys, default=None)

    def _key(self, number: int, worker: int, count: int, excluded: frozenset[int] = frozenset()) -> _Key:
        times = [self._free_at[device] for device in self._first_free(number, worker, count, excluded)]
        return times[-1], sum(map(math.isinf, times)), worker

    def _first_free(self, number: int, worker: int, count: int, excluded: frozenset[int]) -> list[int]:
        owned = self._pools.pools[number].devices[worker]
        if excluded:
            owned = [device for device in owned if device not in excluded]
        return sorted(owned, key=self._free_at.__getitem__)[:count]
