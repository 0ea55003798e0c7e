"""Which waiting job gets which device: a pure function, so that it can be tested and simulated without a service.

The queue is walked in fair-share order (`turns`). A job gets free devices (`pools`), unless its team's quota is used up
(`quotas`). The first jobs that must wait for devices get a reservation where they can start earliest (`timeline`).
Reserved devices go only to jobs that are expected to end before then, so backfilling never delays a reservation. If
stopping runs of lower priority is faster, that is proposed (`preemption`).

A run that exceeds its estimate does delay a reservation, but not indefinitely: while the reservation lasts, its devices
go to no other job.
Source: Lifka, "The ANL/IBM SP scheduling system", 1995 (EASY backfilling), with several reservations instead of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from finetune_hub.scheduling.placement.pools import Pools, Suitable, forgive
from finetune_hub.scheduling.placement.preemption import CHECKPOINT_SECONDS, Preemptions
from finetune_hub.scheduling.placement.quotas import Blocked, Quotas
from finetune_hub.scheduling.placement.reasons import Reasons, Wait, WaitCode
from finetune_hub.scheduling.placement.situation import Assignment, Preemption, Situation, WaitingJob
from finetune_hub.scheduling.placement.timeline import Slot, Timeline
from finetune_hub.scheduling.placement.turns import Turns

MIN_RESERVED = 16
RESERVED_SHARE = 0.5  # Largest share of devices to reserve for waiting jobs. More would leave less for backfilling.


@dataclass(frozen=True, slots=True)
class Placements:
    assignments: tuple[Assignment, ...]
    preemptions: tuple[Preemption, ...]
    waits: Mapping[str, Wait]
    """For every job that got nothing, in queue order: what blocks it, and when it is expected to start."""


def place_jobs(situation: Situation) -> Placements:
    """Assign devices, propose preemptions, and explain to all other jobs why they wait.

    The result is deterministic.
    """
    situation = replace(situation, queue=[forgive(job, situation.devices) for job in situation.queue])
    placing = Placing(situation)
    return Placements(tuple(placing.assignments), tuple(placing.preemptions), explain(situation, placing))


class Placing:
    """One walk over the queue: which jobs start now, and which devices are reserved for others."""

    def __init__(self, situation: Situation) -> None:
        self.assignments: list[Assignment] = []
        self.preemptions: list[Preemption] = []
        self.reservations: dict[str, Slot] = {}
        self.blocked: dict[str, Blocked] = {}
        """Job → which part of its team's quota kept it waiting."""
        self.waiting: list[WaitingJob] = []
        """In the order of the walk."""
        self.pools = Pools(situation.devices, situation.runs)
        self.timeline = Timeline(self.pools, situation.runs, now=situation.now)
        self.quotas = Quotas(situation)
        self.turns = Turns(situation, situation.queue)
        self._now = situation.now
        self._may_reserve = max(MIN_RESERVED, round(RESERVED_SHARE * len(self.pools.pool_of)))
        self._evictions = Preemptions(self.pools, situation.runs)
        for job in self.turns:
            if not self._place(job):
                self.waiting.append(job)

    def _place(self, job: WaitingJob) -> bool:
        suitable = self.pools.suitable(job)
        if not suitable:
            return False
        if blocked := self.quotas.blocks(job):
            self.blocked[job.job_id] = blocked
            return False
        assignment = self.pools.take(job, suitable, now=self._now)
        if assignment is not None:
            self.assignments.append(assignment)
            self.turns.charge(job)
            self.quotas.charge(job, start=self._now)
            self.quotas.in_use[job.team_id] += job.devices
            self.timeline.book(job, Slot(self._now, assignment.device_ids))
            return True
        if self._may_reserve > 0:
            self._reserve(job, suitable)
        return False

    def _reserve(self, job: WaitingJob, suitable: Suitable) -> None:
        """Reserve devices for the job: those that become free first, or those of runs that it preempts."""
        slot = self.timeline.earliest(job, suitable)
        if slot is None:
            return
        if slot.start > self._now + CHECKPOINT_SECONDS and (eviction := self._evictions.find(job, suitable)):
            self.preemptions += [Preemption(run.attempt_id, job.job_id) for run in eviction.runs]
            slot = Slot(self._now + CHECKPOINT_SECONDS, eviction.device_ids)
        self._may_reserve -= job.devices
        self.pools.keep(slot.device_ids, until=slot.start)
        self.reservations[job.job_id] = slot
        self.quotas.charge(job, start=slot.start)
        self.timeline.book(job, slot)


def explain(situation: Situation, placing: Placing) -> dict[str, Wait]:
    """Return why each job without devices waits, and when it starts if everything ends as expected."""
    reasons = Reasons(situation, placing.quotas, placing.pools.lent_now)
    waits: dict[str, Wait] = {}
    for place, job in enumerate(_line(situation, placing), start=1):
        code, start = _expected_start(job, placing)
        waits[job.job_id] = reasons.wait(job, place, code, start)
    return waits


def _line(situation: Situation, placing: Placing) -> list[WaitingJob]:
    """Return the waiting jobs in the expected order: those with a reservation, then the others, each one charged."""
    turns = Turns(situation, [job for job in placing.waiting if job.job_id not in placing.reservations])
    line = [job for job in placing.waiting if job.job_id in placing.reservations]
    started = {assignment.job_id for assignment in placing.assignments}
    for job in [*(job for job in situation.queue if job.job_id in started), *line]:
        turns.charge(job)
    for job in turns:
        turns.charge(job)
        line.append(job)
    return line


def _expected_start(job: WaitingJob, placing: Placing) -> tuple[WaitCode, float]:
    """Return what blocks the job, and when it starts, after all jobs ahead of it."""
    if job.job_id in placing.reservations:
        return "devices", placing.reservations[job.job_id].start
    slot = placing.timeline.earliest(job, placing.pools.suitable(job))
    if slot is None:
        return "no_device", math.inf
    blocked = placing.blocked.get(job.job_id)
    if blocked == "more_than_quota":
        return blocked, math.inf
    slot = replace(slot, start=placing.quotas.earliest(job, slot.start))
    placing.quotas.charge(job, start=slot.start)
    placing.timeline.book(job, slot)
    return blocked or "devices", slot.start
