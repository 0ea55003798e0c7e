"""What a team may use: a number of devices at a time, and a number of device hours per month.

A job may start if its devices and those that its team holds stay within the quota, and if its expected hours do too,
added to those used this month and those that running jobs still need. A job of unknown length only requires that some
hours are left.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from typing import Literal

from finetune_hub.scheduling.placement.situation import Situation, WaitingJob

Blocked = Literal["more_than_quota", "team_devices", "team_hours"]


class Quotas:
    """The room left in the teams' quotas, reduced during a pass by jobs that start or get a reservation."""

    def __init__(self, situation: Situation) -> None:
        self.teams = {team.team_id: team for team in situation.teams}
        self.in_use = Counter[int]()
        """Team → devices of its running jobs."""
        self._next_month = situation.next_month
        self._hours = {team.team_id: team.used_hours for team in situation.teams}
        self._ends: defaultdict[int, list[float]] = defaultdict(list)
        """Team → heap of the times at which its devices become free."""
        for run in situation.runs:
            self.in_use[run.team_id] += len(run.device_ids)
            end = run.end_seen_from(situation.now)
            self._hold(run.team_id, len(run.device_ids), start=situation.now, end=end, share=run.share)

    def devices_held(self, team_id: int) -> int:
        """Return the number of devices in use or reserved."""
        return len(self._ends[team_id])

    def hours_left(self, team_id: int) -> float:
        team = self.teams.get(team_id)
        return math.inf if team is None or team.max_hours is None else team.max_hours - self._hours[team_id]

    def blocks(self, job: WaitingJob) -> Blocked | None:
        """Return which part of its team's quota keeps the job from starting now."""
        team = self.teams.get(job.team_id)
        if team is None:
            return None
        if team.max_devices is not None and self.devices_held(job.team_id) + job.devices > team.max_devices:
            return "more_than_quota" if job.devices > team.max_devices else "team_devices"
        if team.max_hours is not None and not self._has_hours_for(job):
            return "more_than_quota" if (job.hours or 0.0) > team.max_hours else "team_hours"
        return None

    def charge(self, job: WaitingJob, *, start: float) -> None:
        """Count the job as starting then."""
        seconds = math.inf if job.expected_seconds is None else job.expected_seconds
        self._hold(job.team_id, job.devices, start=start, end=start + seconds)

    def earliest(self, job: WaitingJob, start: float) -> float:
        """Return when the quota admits the job, at `start` or later. Call in queue order: it forgets what has ended."""
        team = self.teams.get(job.team_id)
        if team is None:
            return start
        ends = self._ends[job.team_id]
        while team.max_devices is not None and ends and len(ends) + job.devices > team.max_devices:
            start = max(start, heapq.heappop(ends))
        return start if self._has_hours_for(job) else max(start, self._next_month)

    def _has_hours_for(self, job: WaitingJob) -> bool:
        left = self.hours_left(job.team_id)
        return left > 0 and left >= (job.hours or 0.0)

    def _hold(self, team_id: int, devices: int, *, start: float, end: float, share: float = 1.0) -> None:
        for _ in range(devices):
            heapq.heappush(self._ends[team_id], end)
        if not math.isinf(end) and team_id in self._hours:
            self._hours[team_id] += share * devices * (end - start) / 3600
