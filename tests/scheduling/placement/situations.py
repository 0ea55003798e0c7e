"""Situations for tests of placement: plain functions with keyword overrides, and a strategy that draws whole ones."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from finetune_hub.scheduling.placement.situation import Device, Run, Situation, TeamShare, WaitingJob

GB = 10**9
HOUR = 3600.0
NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC
NEXT_MONTH = NOW + 16 * 24 * HOUR


def job(job_id: str = "a", **values: Any) -> WaitingJob:
    return WaitingJob(job_id, **({"team_id": 1, "queued_at": NOW - 60} | values))


def device(device_id: int, **values: Any) -> Device:
    defaults = {"worker_id": 1, "kind": "cuda", "name": "NVIDIA L4", "memory_bytes": 24 * GB}
    defaults |= values
    return Device(device_id, worker=defaults.pop("worker", f"gpu-{defaults['worker_id']}"), **defaults)


def run(attempt_id: int, *device_ids: int, **values: Any) -> Run:
    defaults = {"team_id": 1, "started_at": NOW - HOUR, "expected_end": NOW + HOUR}
    return Run(attempt_id, device_ids=device_ids, **(defaults | values))


def team(team_id: int = 1, **values: Any) -> TeamShare:
    return TeamShare(team_id, **({"name": f"team {team_id}"} | values))


def situation(queue: list[WaitingJob], devices: list[Device], *runs: Run, teams: list[TeamShare] | None = None) -> Any:
    given = teams or [team(number) for number in sorted({one.team_id for one in [*queue, *runs]})]
    return Situation(now=NOW, next_month=NEXT_MONTH, queue=queue, devices=devices, runs=runs, teams=given)


_KINDS = [("cpu", "EPYC, 8 cores", 32), ("cuda", "NVIDIA L4", 24), ("cuda", "NVIDIA H100 80GB HBM3", 80)]
_seconds = st.one_of(st.none(), st.integers(1, 20_000).map(float))


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """A fleet of a few workers, partly busy, with a queue of all sorts of jobs."""
    devices: list[Device] = []
    for worker in range(1, draw(st.integers(1, 4)) + 1):
        kind, name, gigabytes = draw(st.sampled_from(_KINDS))
        facts: dict[str, Any] = {
            "kind": kind,
            "name": name,
            "memory_bytes": gigabytes * GB,
            "labels": frozenset(draw(st.sets(st.sampled_from(["fast", "eu"])))),
            "is_shared": draw(st.booleans()),
            "max_runs": draw(st.sampled_from([None, 1, 2])),
            "away": draw(st.sampled_from(["", "", "", "drained"])),
        }
        for _ in range(draw(st.integers(1, 4))):
            devices.append(device(len(devices) + 1, worker_id=worker, **facts))
    jobs = [
        job(
            f"job-{number}",
            team_id=draw(st.integers(1, 3)),
            queued_at=NOW - draw(st.integers(0, 200_000)),
            devices=draw(st.sampled_from([1, 1, 1, 2, 4])),
            memory_bytes=draw(st.sampled_from([0, 5, 20, 60, 200])) * GB,
            wish=draw(st.sampled_from(["", "", "", "cpu", "h100", "tpu"])),
            labels=frozenset(draw(st.sampled_from([[], [], [], ["fast"]]))),
            priority=draw(st.integers(-2, 2)),
            expected_seconds=draw(_seconds),
            prefers_cpu=draw(st.booleans()),
            excluded_devices=frozenset(draw(st.sampled_from([[], [], [1, 2]]))),
            barred_devices=frozenset(draw(st.sampled_from([[], [], [2, 3]]))),
            preferred_workers=frozenset(draw(st.sampled_from([[], [2]]))),
        )
        for number in range(draw(st.integers(0, 12)))
    ]
    runs = []
    busy = draw(st.lists(st.sampled_from(devices), unique_by=lambda one: one.device_id))
    while busy:
        lent = busy.pop()
        part = draw(st.sampled_from([None, 4 * GB])) if lent.is_shared else None
        beside = (
            [one for one in busy if one.worker_id == lent.worker_id] if part is None and draw(st.booleans()) else []
        )
        busy = [one for one in busy if one not in beside]
        runs.append(
            run(
                len(runs) + 1,
                *(one.device_id for one in [lent, *beside]),
                team_id=draw(st.integers(1, 3)),
                memory_bytes=part,
                expected_end=draw(st.one_of(st.none(), st.integers(-5_000, 20_000).map(lambda after: NOW + after))),
                priority=draw(st.integers(-2, 2)),
                may_be_preempted=draw(st.booleans()),
            )
        )
    teams = [
        team(
            number,
            weight=draw(st.sampled_from([1.0, 2.0])),
            recent_seconds=draw(st.integers(0, 10**6)),
            max_devices=draw(st.one_of(st.none(), st.integers(0, 6))),
            max_hours=draw(st.one_of(st.none(), st.just(3.0))),
            used_hours=draw(st.sampled_from([0.0, 2.5, 4.0])),
        )
        for number in (1, 2, 3)
    ]
    return Situation(now=NOW, next_month=NEXT_MONTH, queue=jobs, devices=devices, runs=runs, teams=teams)
