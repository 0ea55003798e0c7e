"""Which runs to preempt: only those of lower priority, the least important first, and of these the newest.

A preempted run writes a checkpoint and goes back to the queue, so only the time since its last step is lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_hub.scheduling.placement.pools import Pools, Suitable
from finetune_hub.scheduling.placement.situation import Run, WaitingJob

CHECKPOINT_SECONDS = 60.0  # What a run may take to stop; a job that starts sooner anyway preempts nothing.


@dataclass(frozen=True, slots=True)
class Eviction:
    """Runs to stop (none if enough are stopping already), and the devices that the job gets."""

    runs: tuple[Run, ...]
    device_ids: tuple[int, ...]


class Preemptions:
    """The runs of a pass. Once a run is chosen, all its devices count as free for jobs that may preempt."""

    def __init__(self, pools: Pools, runs: Iterable[Run]) -> None:
        self._pools = pools
        self._runs_on: defaultdict[int, list[Run]] = defaultdict(list)
        for run in runs:
            for device in run.device_ids:
                self._runs_on[device].append(run)
        self._stopping: set[int] = set()
        self._lowest = min((run.priority for run in runs if run.may_be_preempted), default=None)

    def find(self, job: WaitingJob, suitable: Suitable) -> Eviction | None:
        """Find the worker with the least important runs to preempt for the job; None: no worker has such runs."""
        if self._lowest is None or job.priority <= self._lowest:
            return None
        found = [
            eviction
            for number in suitable
            for owned in self._pools.pools[number].devices.values()
            if (eviction := self._on_worker(job, owned))
        ]
        best = min(found, key=lambda eviction: (_price(eviction.runs), eviction.device_ids), default=None)
        if best is not None:
            self._stopping.update(run.attempt_id for run in best.runs)
        return best

    def _on_worker(self, job: WaitingJob, owned: Sequence[int]) -> Eviction | None:
        usable = [device for device in owned if self._may_have(job, device)]
        if len(usable) < job.devices:
            return None
        usable.sort(key=lambda device: (_price(self._going_on(device)), device))
        chosen = usable[: job.devices]
        runs = {run.attempt_id: run for device in chosen for run in self._going_on(device)}
        return Eviction(tuple(runs[key] for key in sorted(runs)), tuple(chosen))

    def _may_have(self, job: WaitingJob, device: int) -> bool:
        pools = self._pools
        if device in job.closed_devices or device in pools.kept_until or device in pools.lent_now:
            return False
        return all(run.may_be_preempted and run.priority < job.priority for run in self._runs_on[device])

    def _going_on(self, device: int) -> list[Run]:
        return [run for run in self._runs_on[device] if run.attempt_id not in self._stopping]


def _price(runs: Sequence[Run]) -> tuple[float, ...]:
    """Return the cost of stopping these runs: 0 for none, otherwise by highest priority, size, then oldest start."""
    if not runs:
        return (0.0,)
    devices = sum(len(run.device_ids) for run in runs)
    return (1.0, max(run.priority for run in runs), devices, len(runs), -max(run.started_at for run in runs))
