"""Simulate thirty days of a fleet of 1,000 GPUs with the real placement code: fairness, utilisation, starvation.

    python -m benchmarks.placement [--days 30] [--queued 10000] [--seed 7]        Ctrl-C: print the table so far

Every twenty simulated minutes, `finetune_hub.scheduling.placement` runs a pass with the inputs of the service. Jobs
arrive at random, run longer or shorter than expected, fail, lose their worker, and are preempted. The figures are
counted here, independently of the code under test:

    oversubscription   moments at which a device was assigned beyond its memory, or twice
    fair-share error   for a team that always has jobs queued: its share of device hours relative to its weight's
    utilisation        busy device hours, relative to the most that any placement could have kept busy at those moments:
                       min over memory sizes m of (devices requested by jobs that need less than m + devices with m or
                       more), which is the max-flow bound of jobs on devices
    lateness           how much longer a job of a busy team waited than its team's share of the fleet needs for the
                       team's queue at the job's arrival
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from finetune_hub.scheduling.placement.placing import Placing, place_jobs
from finetune_hub.scheduling.placement.situation import Assignment, Device, Run, Situation, TeamShare, WaitingJob
from finetune_hub.scheduling.placement.turns import HALF_LIFE_SECONDS

GB = 10**9
HOUR = 3600.0
DAY = 24 * HOUR
PASS_SECONDS = 1200.0
WARM_UP_DAYS = 3
# Workers, devices per worker, name, gigabytes, whether several jobs may share a device.
FLEET = [
    (60, 8, "NVIDIA H100 80GB HBM3", 80, False),
    (30, 8, "NVIDIA A100-SXM4-40GB", 40, False),
    (40, 4, "NVIDIA L40S", 48, False),
    (60, 2, "NVIDIA L4", 24, True),
]
SIZES = [8, 14, 20, 22, 30, 36, 44, 60, 76]  # Gigabytes that a job needs on each device.
DEVICES = {1: 0.70, 2: 0.12, 4: 0.10, 8: 0.08}
PRIORITIES = {0: 0.90, -1: 0.06, 1: 0.03, 2: 0.01}
MEDIAN_HOURS, SPREAD = 3.0, 0.8  # Log-normal.
MEAN_DEVICE_HOURS = MEDIAN_HOURS * math.exp(SPREAD**2 / 2) * sum(count * share for count, share in DEVICES.items())
ESTIMATE_SPREAD = 0.3
FAILING_SHARE = 0.02  # Share of attempts that fail with the job's own error, at a random moment.
WORKER_MTBF_SECONDS, WORKER_MEND_SECONDS = 20 * DAY, 4 * HOUR
CHECKPOINT_EVERY_SECONDS = 0.5 * HOUR
MAX_PREEMPTIONS = 3
# Weights of the teams that always have jobs queued. There are also a team with a quota and one that needs little.
BUSY_WEIGHTS = [1.0, 1.0, 2.0, 2.0, 4.0]
CAPPED, LIGHT = len(BUSY_WEIGHTS), len(BUSY_WEIGHTS) + 1
CAPPED_DEVICES = 40
LIGHT_JOBS_AN_HOUR = 2.0
OFFERED = 1.05  # Arriving device hours, relative to those available.


@dataclass
class SimulatedJob:
    """A job, with its real duration, which placement does not know."""

    asked: WaitingJob
    seconds_left: float
    fails_after: float
    due_after: float
    """Seconds that its team's share needs for the queue ahead of it."""
    attempt_id: int = 0
    started_at: float | None = None
    first_start: float | None = None
    lent: Assignment | None = None
    preemptions: int = 0

    @property
    def really_ends(self) -> float:
        assert self.started_at is not None
        return self.started_at + max(1.0, min(self.seconds_left, self.fails_after))


@dataclass
class Measured:
    """The data of the table."""

    oversubscribed: int = 0
    pass_seconds: list[float] = field(default_factory=list)
    explained_seconds: list[float] = field(default_factory=list)
    queue_lengths: list[int] = field(default_factory=list)
    busy: float = 0.0
    bound: float = 0.0
    up: float = 0.0
    team_seconds: Counter[int] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    jobs: list[SimulatedJob] = field(default_factory=list)


class Fleet:
    """The simulated hub between two passes."""

    def __init__(self, *, queued: int, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 0.0
        self.measured = Measured()
        self.devices = list(make_devices())
        self.down_until: dict[int, float] = {}
        self.queue: dict[str, SimulatedJob] = {}
        self.running: dict[int, SimulatedJob] = {}
        self.recent = Counter[int]()
        self.last_starts: dict[int, float] = {}
        self.waiting_seconds = [0.0] * (LIGHT + 1)
        """Team → device seconds of its queued jobs."""
        self._ends: list[tuple[float, int]] = []
        self._attempts = 0
        for team in self.draw.choices(range(len(BUSY_WEIGHTS)), BUSY_WEIGHTS, k=queued):
            self.submit(team)

    # ---- events

    def submit(self, team: int) -> None:
        draw = self.draw
        seconds = min(2 * DAY, max(600.0, HOUR * draw.lognormvariate(math.log(MEDIAN_HOURS), SPREAD)))
        asked = WaitingJob(
            job_id=f"job-{len(self.measured.jobs):06}",
            team_id=team,
            queued_at=self.now + len(self.measured.jobs) * 1e-6,
            devices=1 if team == LIGHT else pick(draw, DEVICES),
            memory_bytes=draw.choice(SIZES) * GB,
            priority=pick(draw, PRIORITIES),
            expected_seconds=seconds * draw.lognormvariate(0, ESTIMATE_SPREAD),
        )
        fails = draw.random() * seconds if draw.random() < FAILING_SHARE else math.inf
        job = SimulatedJob(asked, seconds, fails, due_after=self.waiting_seconds[team] / fair_devices(team))
        self.waiting_seconds[team] += asked.devices * seconds
        self.queue[asked.job_id] = job
        self.measured.jobs.append(job)

    def pass_time(self, seconds: float) -> None:
        """Simulate arrivals, ends, and failing workers up to the next pass."""
        until = self.now + seconds
        for team in range(len(BUSY_WEIGHTS) + 2):
            for _ in range(poisson(self.draw, self._jobs_an_hour(team) * seconds / HOUR)):
                self.submit(team)
        workers = {device.worker_id for device in self.devices}
        for worker in sorted(workers):
            if worker not in self.down_until and self.draw.random() < seconds / WORKER_MTBF_SECONDS:
                self._break(worker)
        self.down_until = {worker: end for worker, end in self.down_until.items() if end > until}
        self._account(until)
        while self._ends and self._ends[0][0] <= until:
            _, attempt_id = heapq.heappop(self._ends)
            if job := self.running.pop(attempt_id, None):
                self.measured.ends["failed" if job.fails_after < job.seconds_left else "succeeded"] += 1
        self.now = until

    @staticmethod
    def _jobs_an_hour(team: int) -> float:
        if team == LIGHT:
            return LIGHT_JOBS_AN_HOUR
        weight = 1.0 if team == CAPPED else BUSY_WEIGHTS[team]
        return OFFERED * 1000 / MEAN_DEVICE_HOURS * weight / (sum(BUSY_WEIGHTS) + 1)

    def _break(self, worker: int) -> None:
        self.down_until[worker] = self.now + WORKER_MEND_SECONDS
        for job in list(self.running.values()):
            if job.lent and job.lent.worker_id == worker:
                since = self.now - (job.started_at or 0.0)
                self._requeue(job, kept_seconds=since - since % CHECKPOINT_EVERY_SECONDS)
                self.measured.ends["lost with its worker, resumed"] += 1

    def _requeue(self, job: SimulatedJob, *, kept_seconds: float) -> None:
        """Requeue the job to resume from its checkpoint later, in the order of its first submission."""
        del self.running[job.attempt_id]
        job.seconds_left -= kept_seconds
        job.fails_after -= kept_seconds
        left = max(600.0, (job.asked.expected_seconds or 0.0) - kept_seconds)
        job.asked, job.started_at, job.lent = replace(job.asked, expected_seconds=left), None, None
        self.queue[job.asked.job_id] = job
        self.waiting_seconds[job.asked.team_id] += job.asked.devices * job.seconds_left

    # ---- a pass

    def schedule(self, *, explain: bool) -> None:
        seen = self.situation()
        began = time.process_time()
        made = place_jobs(seen) if explain else Placing(seen)
        took = time.process_time() - began
        (self.measured.explained_seconds if explain else self.measured.pass_seconds).append(took)
        self.measured.queue_lengths.append(len(seen.queue))
        for preemption in made.preemptions:
            job = self.running[preemption.attempt_id]
            job.preemptions += 1
            self._requeue(job, kept_seconds=self.now - (job.started_at or 0.0))
            self.measured.ends["preempted, resumed"] += 1
        for assignment in made.assignments:
            self._start(self.queue.pop(assignment.job_id), assignment)
        self._check()

    def situation(self) -> Situation:
        devices = [
            replace(device, away="offline") if device.worker_id in self.down_until else device
            for device in self.devices
        ]
        runs = [
            Run(
                attempt_id=attempt_id,
                team_id=job.asked.team_id,
                device_ids=job.lent.device_ids,
                memory_bytes=job.lent.memory_bytes,
                started_at=job.started_at,
                expected_end=job.started_at + (job.asked.expected_seconds or 0.0),
                priority=job.asked.priority,
                may_be_preempted=job.preemptions < MAX_PREEMPTIONS,
            )
            for attempt_id, job in self.running.items()
            if job.lent and job.started_at is not None
        ]
        weights = [*BUSY_WEIGHTS, 1.0, 1.0]
        teams = [
            TeamShare(
                team,
                f"team {team}",
                weight=weight,
                recent_seconds=self.recent[team],
                last_start=self.last_starts.get(team, 0.0),
                max_devices=CAPPED_DEVICES if team == CAPPED else None,
            )
            for team, weight in enumerate(weights)
        ]
        queue = [job.asked for job in self.queue.values()]
        return Situation(now=self.now, next_month=30 * DAY, queue=queue, devices=devices, runs=runs, teams=teams)

    def _start(self, job: SimulatedJob, assignment: Assignment) -> None:
        self._attempts += 1
        job.attempt_id, job.lent, job.started_at = self._attempts, assignment, self.now
        job.first_start = self.now if job.first_start is None else job.first_start
        self.running[job.attempt_id] = job
        self.last_starts[job.asked.team_id] = self.now
        self.waiting_seconds[job.asked.team_id] -= job.asked.devices * job.seconds_left
        heapq.heappush(self._ends, (job.really_ends, job.attempt_id))

    # ---- measurements

    def _check(self) -> None:
        """Count devices that are assigned beyond their memory, shared although one job has it whole, or offline."""
        lent: defaultdict[int, list[int | None]] = defaultdict(list)
        for job in self.running.values():
            assert job.lent is not None
            for device_id in job.lent.device_ids:
                lent[device_id].append(job.lent.memory_bytes)
        for device_id, parts in lent.items():
            device = self.devices[device_id]
            whole = None in parts or not device.is_shared
            too_much = len(parts) > 1 if whole else sum(part or 0 for part in parts) > device.memory_bytes
            self.measured.oversubscribed += too_much or device.worker_id in self.down_until

    def _account(self, until: float) -> None:
        """Account device seconds from now on, by the real ends of running jobs."""
        measured, busy_until = self.measured, dict[int, float]()
        fade = 0.5 ** ((until - self.now) / HALF_LIFE_SECONDS)
        taken = Counter[int]()
        for job in self.running.values():
            assert job.lent is not None
            end = min(until, job.really_ends)
            taken[job.asked.team_id] += max(0.0, end - self.now) * job.asked.devices  # type: ignore[assignment]
            for device_id in job.lent.device_ids:
                busy_until[device_id] = max(end, busy_until.get(device_id, self.now))
        for team in range(LIGHT + 1):
            self.recent[team] = self.recent[team] * fade + taken[team]
        if self.now >= WARM_UP_DAYS * DAY:
            measured.team_seconds.update(taken)
            measured.busy += sum(end - self.now for end in busy_until.values())
            measured.bound += self._most_busy() * (until - self.now)
            measured.up += sum(d.worker_id not in self.down_until for d in self.devices) * (until - self.now)

    def _most_busy(self) -> int:
        """Return the most devices that any placement could keep busy with the current jobs."""
        asked, there = Counter[int](), Counter[int]()
        for job in [*self.queue.values(), *self.running.values()]:
            if job.asked.team_id != CAPPED:
                asked[job.asked.memory_bytes] += job.asked.devices
        for device in self.devices:
            if device.worker_id not in self.down_until:
                there[device.memory_bytes] += 1
        cuts = [0, *sorted(there), 10**15]
        bounds = (
            sum(count for memory, count in asked.items() if memory <= cut)
            + sum(count for memory, count in there.items() if memory > cut)
            for cut in cuts
        )
        return min(sum(there.values()), min(bounds) + CAPPED_DEVICES)


def make_devices() -> Iterator[Device]:
    """Yield the devices, numbered from 0."""
    number = worker = 0
    for workers, count, name, gigabytes, is_shared in FLEET:
        for _ in range(workers):
            worker += 1
            for _ in range(count):
                yield Device(number, worker, f"gpu-{worker}", "cuda", name, gigabytes * GB, is_shared=is_shared)
                number += 1


def pick(draw: random.Random, shares: dict[int, float]) -> int:
    return draw.choices(list(shares), list(shares.values()))[0]


def poisson(draw: random.Random, mean: float) -> int:
    """Draw with Knuth's method, for small means."""
    count, product = 0, draw.random()
    while product > math.exp(-mean):
        count += 1
        product *= draw.random()
    return count


def fair_devices(team: int) -> float:
    """Return a busy team's average number of devices, if all are up and the other two teams get what they need."""
    if team >= CAPPED:
        return math.inf
    light_devices = LIGHT_JOBS_AN_HOUR * MEDIAN_HOURS * math.exp(SPREAD**2 / 2)
    return (1000 - CAPPED_DEVICES - light_devices) * BUSY_WEIGHTS[team] / sum(BUSY_WEIGHTS)


def waited(job: SimulatedJob, now: float) -> float:
    """Return the seconds that a job waited, up to now if it is still queued."""
    return (now if job.first_start is None else job.first_start) - job.asked.queued_at


def is_lost(job: SimulatedJob, now: float) -> bool:
    return job.first_start is None and waited(job, now) - job.due_after > DAY


def fair_share_errors(team_seconds: Counter[int]) -> dict[int, float]:
    """Return the error of each busy team's share among them, relative to its weight's."""
    total = sum(team_seconds[team] for team in range(len(BUSY_WEIGHTS)))
    return {
        team: team_seconds[team] / total / (weight / sum(BUSY_WEIGHTS)) - 1 for team, weight in enumerate(BUSY_WEIGHTS)
    }


def report(measured: Measured, now: float, took: float) -> str:
    busy = [job for job in measured.jobs if job.asked.team_id not in {CAPPED, LIGHT}]
    waits = {
        f"{count} device{'s' if count > 1 else ''} of {name}": [
            waited(job, now) / HOUR
            for job in busy
            if job.asked.devices == count and least <= job.asked.memory_bytes / GB <= most
        ]
        for count in DEVICES
        for name, least, most in [("any kind", 0, 22), ("the largest", 60, 80)]
    }
    light = [waited(job, now) / 60 for job in measured.jobs if job.asked.team_id == LIGHT]
    errors = fair_share_errors(measured.team_seconds)
    rows = [
        ("simulated days", f"{now / DAY:.1f}"),
        ("jobs submitted", f"{len(measured.jobs):,}"),
        ("jobs waiting, median and most", f"{spread(measured.queue_lengths, '{:,.0f}')}"),
        *((f"attempts {how}", f"{count:,}") for how, count in measured.ends.most_common()),
        ("moments of oversubscription", f"{measured.oversubscribed}"),
        ("fair-share error, largest", f"{100 * max(map(abs, errors.values())):.1f}%"),
        ("utilisation of devices that were up", f"{100 * measured.busy / measured.up:.1f}%"),
        ("utilisation of the upper bound", f"{100 * measured.busy / measured.bound:.1f}%"),
        *((f"wait for {what}, median and most", spread(hours, "{:.0f} h")) for what, hours in waits.items()),
        ("lateness, median and most", spread([(waited(job, now) - job.due_after) / HOUR for job in busy], "{:.1f} h")),
        ("jobs still waiting that are late by more than a day", f"{sum(is_lost(job, now) for job in busy)}"),
        ("wait of the team that asks for little, median and most", spread(light, "{:.0f} min")),
        ("placement pass in CPU seconds, median and most", f"{spread(measured.pass_seconds, '{:.3f} s')}"),
        ("the same with every wait explained", f"{spread(measured.explained_seconds, '{:.3f} s')}"),
        ("the simulation took", f"{took / 60:.1f} min"),
    ]
    return "\n".join(["| measured | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def spread(values: list[float] | list[int], form: str) -> str:
    return f"{form.format(statistics.median(values))}, {form.format(max(values))}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--days", type=float, default=30)
    parser.add_argument("--queued", type=int, default=10_000, help="jobs queued at the start")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    began = time.perf_counter()
    fleet = Fleet(queued=arguments.queued, seed=arguments.seed)
    passes = round(arguments.days * DAY / PASS_SECONDS)
    try:
        for number in range(passes):
            fleet.schedule(explain=number % round(DAY / PASS_SECONDS) == 0)
            fleet.pass_time(PASS_SECONDS)
    except KeyboardInterrupt:
        pass
    print(report(fleet.measured, fleet.now, time.perf_counter() - began))


if __name__ == "__main__":
    main()
