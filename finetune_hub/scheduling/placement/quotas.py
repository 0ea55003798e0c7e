"""What a team may have: so many devices at a time, and so many device hours a month.

A job is let in when the devices that its team holds and its own stay within the quota, and when its expected hours do,
beside those that the month took and those that running jobs will still take. Of a job whose length nobody knows it is
asked only that hours are left.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter, defaultdict
from typing import Literal

from finetune_hub.scheduling.placement.situation import Situation, WaitingJob

Blocked = Literal["more_than_quota", "team_devices", "team_hours"]


class Quotas:
    """The teams' room, as a pass finds it and gives it away: to what starts, and to what has a reservation."""

    def __init__(self, situation: Situation) -> None:
        self.teams = {team.team_id: team for team in situation.teams}
        self.in_use = Counter[int]()
        """Team → devices of what runs."""
        self._next_month = situation.next_month
        self._hours = {team.team_id: team.used_hours for team in situation.teams}
        self._ends: defaultdict[int, list[float]] = defaultdict(list)
        """Team → heap of the moments at which its devices come free."""
        for run in situation.runs:
            self.in_use[run.team_id] += len(run.device_ids)
            end = run.end_seen_from(situation.now)
            self._hold(run.team_id, len(run.device_ids), start=situation.now, end=end, share=run.share)

    def devices_held(self, team_id: int) -> int:
        """In use or promised."""
        return len(self._ends[team_id])

    def hours_left(self, team_id: int) -> float:
        team = self.teams.get(team_id)
        return math.inf if team is None or team.max_hours is None else team.max_hours - self._hours[team_id]

    def blocks(self, job: WaitingJob) -> Blocked | None:
        """What of its team's quota keeps the job from starting now."""
        team = self.teams.get(job.team_id)
        if team is None:
            return None
        if team.max_devices is not None and self.devices_held(job.team_id) + job.devices > team.max_devices:
            return "more_than_quota" if job.devices > team.max_devices else "team_devices"
        if team.max_hours is not None and not self._has_hours_for(job):
            return "more_than_quota" if (job.hours or 0.0) > team.max_hours else "team_hours"
        return None

    def charge(self, job: WaitingJob, *, start: float) -> None:
        """The job starts then."""
        seconds = math.inf if job.expected_seconds is None else job.expected_seconds
        self._hold(job.team_id, job.devices, start=start, end=start + seconds)

    def earliest(self, job: WaitingJob, start: float) -> float:
        """When the quota lets the job in, if later than `start`. Forgets what has ended by then: ask in line."""
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
