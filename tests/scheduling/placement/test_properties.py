"""What holds in every situation: nothing is lent twice, nobody is forgotten, and back-fill delays no reservation."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from dataclasses import replace

from hypothesis import given, settings

from finetune_hub.scheduling.placement.placing import Placing, place_jobs
from finetune_hub.scheduling.placement.pools import forgive, matches
from finetune_hub.scheduling.placement.situation import Situation
from tests.scheduling.placement.situations import NOW, situations

MANY = settings(max_examples=100, deadline=None)


@MANY
@given(situations())
def test_no_device_is_lent_beyond_its_memory(found: Situation) -> None:
    lent: defaultdict[int, list[int | None]] = defaultdict(list)
    for one in [*found.runs, *place_jobs(found).assignments]:
        for device_id in one.device_ids:
            lent[device_id].append(one.memory_bytes)
    by_id = {device.device_id: device for device in found.devices}
    for device_id, parts in lent.items():
        if len(parts) > 1:
            assert by_id[device_id].is_shared
            assert len(parts) <= (by_id[device_id].max_runs or len(parts))
            assert None not in parts
            assert sum(part or 0 for part in parts) <= by_id[device_id].memory_bytes


@MANY
@given(situations())
def test_each_job_is_placed_where_it_fits_or_told_why_not(found: Situation) -> None:
    made = place_jobs(found)
    jobs = {job.job_id: job for job in found.queue}
    by_id = {device.device_id: device for device in found.devices}
    placed = [assignment.job_id for assignment in made.assignments]
    assert sorted([*placed, *made.waits]) == sorted(jobs)
    assert sorted(wait.place for wait in made.waits.values()) == list(range(1, len(made.waits) + 1))
    for assignment in made.assignments:
        job = jobs[assignment.job_id]
        lent = [by_id[device_id] for device_id in assignment.device_ids]
        assert len(set(assignment.device_ids)) == job.devices
        assert {device.worker_id for device in lent} == {assignment.worker_id}
        assert len({(device.kind, device.name) for device in lent}) == 1
        for device in lent:
            assert not device.away
            assert device.device_id not in forgive(job, found.devices).closed_devices
            assert matches(job, device.kind, device.name, device.memory_bytes, device.labels)


@MANY
@given(situations())
def test_no_team_gets_more_than_its_quota(found: Situation) -> None:
    made = place_jobs(found)
    jobs = {job.job_id: job for job in found.queue}
    started = Counter[int]()
    for assignment in made.assignments:
        started[jobs[assignment.job_id].team_id] += len(assignment.device_ids)
    held = Counter[int]()
    for run in found.runs:
        held[run.team_id] += len(run.device_ids)
    for team in found.teams:
        if started[team.team_id] and team.max_devices is not None:
            assert held[team.team_id] + started[team.team_id] <= team.max_devices
        if started[team.team_id] and team.max_hours is not None:
            assert team.used_hours < team.max_hours


@MANY
@given(situations())
def test_backfill_moves_no_reservation_later(found: Situation) -> None:
    """All that is on a reserved device is expected to be gone when the reservation begins."""
    placing = Placing(found)
    jobs = {job.job_id: job for job in found.queue}
    new_ends = {
        device_id: NOW + (jobs[made.job_id].expected_seconds or math.inf)
        for made in placing.assignments
        for device_id in made.device_ids
    }
    stopped = {preemption.attempt_id for preemption in placing.preemptions}
    for slot in placing.reservations.values():
        for device_id in slot.device_ids:
            ends = [
                run.end_seen_from(NOW)
                for run in found.runs
                if device_id in run.device_ids and run.attempt_id not in stopped
            ]
            if math.isfinite(slot.start):
                assert max([*ends, new_ends.get(device_id, 0.0)], default=0.0) <= slot.start


@MANY
@given(situations())
def test_the_order_of_the_rows_changes_nothing(found: Situation) -> None:
    draw = random.Random(3)
    shuffled = replace(
        found,
        queue=draw.sample(found.queue, len(found.queue)),
        devices=draw.sample(found.devices, len(found.devices)),
        runs=draw.sample(found.runs, len(found.runs)),
        teams=draw.sample(found.teams, len(found.teams)),
    )
    assert place_jobs(shuffled) == place_jobs(found)


@MANY
@given(situations())
def test_only_runs_of_lower_priority_make_room(found: Situation) -> None:
    runs = {run.attempt_id: run for run in found.runs}
    jobs = {job.job_id: job for job in found.queue}
    made = place_jobs(found)
    stopped = [preemption.attempt_id for preemption in made.preemptions]
    assert len(stopped) == len(set(stopped))
    for preemption in made.preemptions:
        run, job = runs[preemption.attempt_id], jobs[preemption.for_job_id]
        assert run.may_be_preempted
        assert run.priority < job.priority
        assert made.waits[job.job_id].code == "devices"


@MANY
@given(situations())
def test_a_device_that_a_job_could_have_is_idle_only_for_a_reservation_or_a_quota(found: Situation) -> None:
    placing = Placing(found)
    taken = {one for made in [*found.runs, *placing.assignments] for one in made.device_ids}
    reserved = {one for slot in placing.reservations.values() for one in slot.device_ids}
    for job in placing.waiting:
        if job.devices > 1 or job.job_id in placing.blocked or job.job_id in placing.reservations:
            continue
        for number in placing.pools.suitable(job):
            for owned in placing.pools.pools[number].devices.values():
                assert set(owned) - job.closed_devices <= taken | reserved
