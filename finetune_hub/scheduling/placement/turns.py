"""The order of the queue: priority first, then fair share between teams, then first come, first served within a team.

    level = min(highest priority in the queue, priority + lift)
    score = (decayed device seconds + expected seconds of running and starting jobs) / weight        lowest first

Aging lifts a job by one level for every four hours in which none of its team's jobs started, for every four hours that
it waited itself while below 0, and for every week that it waited. It never exceeds the highest waiting priority: among
equals, fair share decides, and a team's oldest job comes first. So every job gets to the front, but a team with a long,
and thus old, queue is not ahead of one with a short queue. A team is charged for a job in advance when it starts;
otherwise a team without recent use would get every free device at once.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from finetune_hub.scheduling.placement.situation import Situation, WaitingJob

SECONDS_PER_LEVEL = 4 * 3600.0
WEEK_SECONDS = 7 * 24 * 3600.0
HALF_LIFE_SECONDS = 7 * 24 * 3600.0  # After which use counts half; applied where use is summed up.
UNKNOWN_SECONDS = 3600.0  # Charged for a job of unknown length.


class Turns:
    """The queue in order; charges made while it is walked change what comes next.

    Args:
        queue: the jobs to walk; scores are computed from the whole situation.
    """

    def __init__(self, situation: Situation, queue: Iterable[WaitingJob]) -> None:
        self._weights = {team.team_id: team.weight for team in situation.teams}
        self._seconds: defaultdict[int, float] = defaultdict(float)
        for team in situation.teams:
            self._seconds[team.team_id] = team.recent_seconds
        for run in situation.runs:
            left = run.end_seen_from(situation.now) - situation.now
            self._seconds[run.team_id] += (
                run.share * len(run.device_ids) * (UNKNOWN_SECONDS if math.isinf(left) else left)
            )
        self._levels = _by_level_and_team(list(queue), situation)

    def charge(self, job: WaitingJob) -> None:
        """Charge the job's team for starting it."""
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


def _by_level_and_team(queue: list[WaitingJob], situation: Situation) -> dict[int, dict[int, deque[WaitingJob]]]:
    highest = max((job.priority for job in queue), default=0)
    last_starts = {team.team_id: team.last_start for team in situation.teams}
    levels: dict[int, dict[int, deque[WaitingJob]]] = {}
    for job in sorted(queue, key=lambda job: (job.queued_at, job.job_id)):
        unserved_since = max(job.queued_at, last_starts.get(job.team_id, 0.0))
        level = job.priority
        if level < highest:
            level = min(highest, level + _lift(job, situation.now - job.queued_at, situation.now - unserved_since))
        levels.setdefault(level, {}).setdefault(job.team_id, deque()).append(job)
    return levels


def _lift(job: WaitingJob, waited: float, unserved: float) -> int:
    """Return the levels by which waiting has lifted the job."""
    own = min(-job.priority, int(waited // SECONDS_PER_LEVEL)) if job.priority < 0 else 0
    return max(own, int(unserved // SECONDS_PER_LEVEL), 0) + max(0, int(waited // WEEK_SECONDS))
