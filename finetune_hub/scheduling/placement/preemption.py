"""Which runs should make room: those of lower priority only, the least important first, and of these the youngest.

A preempted run writes a checkpoint and waits in the queue again, so what is lost is the time since its last step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_hub.scheduling.placement.pools import Pools, Suitable
from finetune_hub.scheduling.placement.situation import Run, WaitingJob

CHECKPOINT_SECONDS = 60.0  # That a run may take to stop; who starts sooner anyway preempts nobody.


@dataclass(frozen=True, slots=True)
class Eviction:
    """Runs to stop, none where enough are stopping already, and the devices that the job gets by it."""

    runs: tuple[Run, ...]
    device_ids: tuple[int, ...]


class Preemptions:
    """The runs of a pass. All devices of a run that was chosen are as good as free for who may preempt."""

    def __init__(self, pools: Pools, runs: Iterable[Run]) -> None:
        self._pools = pools
        self._runs_on: defaultdict[int, list[Run]] = defaultdict(list)
        for run in runs:
            for device in run.device_ids:
                self._runs_on[device].append(run)
        self._stopping: set[int] = set()
        self._lowest = min((run.priority for run in runs if run.may_be_preempted), default=None)

    def find(self, job: WaitingJob, suitable: Suitable) -> Eviction | None:
        """The worker on which the least important runs make room for the job; None: on none is that allowed."""
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
    """What it costs to stop these runs: nothing if there are none, else by the most important, then the oldest."""
    if not runs:
        return (0.0,)
    devices = sum(len(run.device_ids) for run in runs)
    return (1.0, max(run.priority for run in runs), devices, len(runs), -max(run.started_at for run in runs))
