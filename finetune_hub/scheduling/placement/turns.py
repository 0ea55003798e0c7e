"""Whose turn it is: priority first, then fair share between teams, then first come, first served within a team.

    level = min(priority + hours waited / 4, highest priority in the queue)
    score = (decayed device seconds + seconds promised to what runs and starts) / weight        lowest first

Ageing lifts a job to the highest priority that waits and no further: among equals fair share decides, and a team's
oldest job is its first. So every job comes to the front. Whoever starts a job is charged for it in advance, since
otherwise a team without recent use would be given every free device at once.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from finetune_hub.scheduling.placement.situation import Situation, WaitingJob

SECONDS_PER_LEVEL = 4 * 3600.0
HALF_LIFE_SECONDS = 7 * 24 * 3600.0  # After which use counts half; whoever sums it up decays it so.
UNKNOWN_SECONDS = 3600.0  # Charged for a job whose length nobody knows.


class Turns:
    """The queue in the order of turns; charges made while it is walked change what comes next.

    Args:
        queue: the jobs to walk; the scores are those of the whole situation.
    """

    def __init__(self, situation: Situation, queue: Iterable[WaitingJob]) -> None:
        self._weights = {team.team_id: team.weight for team in situation.teams}
        self._seconds: defaultdict[int, float] = defaultdict(float)
        for team in situation.teams:
            self._seconds[team.team_id] = team.recent_seconds
        for run in situation.runs:
            left = run.end_seen_from(situation.now) - situation.now
            self._seconds[run.team_id] += len(run.device_ids) * (UNKNOWN_SECONDS if math.isinf(left) else left)
        self._levels = _by_level_and_team(list(queue), situation.now)

    def charge(self, job: WaitingJob) -> None:
        """The job starts: its team has had its turn."""
        seconds = UNKNOWN_SECONDS if job.expected_seconds is None else job.expected_seconds
        self._seconds[job.team_id] += job.devices * seconds

    def __iter__(self) -> Iterator[WaitingJob]:
        for _, teams in sorted(self._levels.items(), reverse=True):
            turns = [(self._score(team), team) for team in teams]
            heapq.heapify(turns)
            while turns:
                _, team = turns[0]
                yield teams[team].popleft()
                if teams[team]:
                    heapq.heapreplace(turns, (self._score(team), team))
                else:
                    heapq.heappop(turns)

    def _score(self, team_id: int) -> float:
        return self._seconds[team_id] / self._weights.get(team_id, 1.0)


def _by_level_and_team(queue: list[WaitingJob], now: float) -> dict[int, dict[int, deque[WaitingJob]]]:
    highest = max((job.priority for job in queue), default=0)
    levels: dict[int, dict[int, deque[WaitingJob]]] = {}
    for job in sorted(queue, key=lambda job: (job.queued_at, job.job_id)):
        level = min(highest, job.priority + int(max(0.0, now - job.queued_at) // SECONDS_PER_LEVEL))
        levels.setdefault(level, {}).setdefault(job.team_id, deque()).append(job)
    return levels
