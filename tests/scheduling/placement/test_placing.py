"""Who gets which device, rule by rule: fit, turns, quotas, reservations and back-fill, sharing, preemption."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_hub.scheduling.placement.placing import Placements, place_jobs
from finetune_hub.scheduling.placement.situation import Device, Preemption
from tests.scheduling.placement.situations import GB, HOUR, NOW, device, job, run, situation, team


def given(made: Placements) -> dict[str, tuple[int, ...]]:
    return {assignment.job_id: assignment.device_ids for assignment in made.assignments}


def h100(device_id: int, **values: Any) -> Device:
    return device(device_id, **({"worker_id": 2, "name": "NVIDIA H100 80GB HBM3", "memory_bytes": 80 * GB} | values))


def test_the_tightest_fit_keeps_the_large_device_free() -> None:
    small, large = job("small", memory_bytes=20 * GB), job("large", memory_bytes=60 * GB, queued_at=NOW)
    made = place_jobs(situation([small, large], [h100(1), device(2)]))
    assert given(made) == {"small": (2,), "large": (1,)}


def test_several_devices_are_of_one_worker_and_the_fullest_worker_is_taken() -> None:
    devices = [device(n, worker_id=1) for n in (1, 2, 3)] + [device(n, worker_id=2) for n in (4, 5)]
    made = place_jobs(situation([job(devices=2)], devices))
    assert given(made) == {"a": (4, 5)}


@pytest.mark.parametrize(("wish", "device_id"), [("cpu", 1), ("gpu", 2), ("h100", 3), ("NVIDIA L4", 2)])
def test_wishes_name_a_kind_or_a_part_of_the_name(wish: str, device_id: int) -> None:
    devices = [device(1, kind="cpu", name="EPYC, 8 cores"), device(2), h100(3)]
    assert given(place_jobs(situation([job(wish=wish)], devices))) == {"a": (device_id,)}


def test_a_training_waits_for_a_gpu_rather_than_take_a_cpu() -> None:
    cpu = device(1, kind="cpu", name="EPYC", memory_bytes=500 * GB)
    gpu = device(2, worker_id=2, away="drained")
    assert given(place_jobs(situation([job()], [cpu, gpu]))) == {}
    assert given(place_jobs(situation([job(memory_bytes=100 * GB)], [cpu, gpu]))) == {"a": (1,)}
    assert given(place_jobs(situation([job(prefers_cpu=True)], [cpu, device(2, worker_id=2)]))) == {"a": (1,)}


def test_labels_exclusions_and_the_worker_that_holds_the_base_model() -> None:
    devices = [device(1), device(2, worker_id=2, labels=frozenset({"fast"})), device(3, worker_id=3)]
    assert given(place_jobs(situation([job(labels=frozenset({"fast"}))], devices))) == {"a": (2,)}
    assert given(place_jobs(situation([job(excluded_devices=frozenset({1, 2}))], devices))) == {"a": (3,)}
    assert given(place_jobs(situation([job(preferred_workers=frozenset({3}))], devices))) == {"a": (3,)}
    lost = job(preferred_workers=frozenset({1}), avoided_worker=1)
    assert given(place_jobs(situation([lost], [devices[0], devices[2]]))) == {"a": (3,)}
    assert given(place_jobs(situation([lost], devices[:1]))) == {"a": (1,)}


def test_a_job_that_failed_on_every_suitable_device_tries_them_again() -> None:
    gpu, other = device(1), device(2, worker_id=2, memory_bytes=8 * GB)
    cpu = device(3, worker_id=3, kind="cpu", name="EPYC", memory_bytes=500 * GB)
    failed = job(excluded_devices=frozenset({1}), memory_bytes=20 * GB)
    assert given(place_jobs(situation([failed], [gpu, other, cpu]))) == {"a": (1,)}
    assert given(place_jobs(situation([failed], [gpu, device(4, worker_id=4), cpu]))) == {"a": (4,)}
    assert given(place_jobs(situation([failed], [gpu, device(4, worker_id=4, away="offline")]))) == {"a": (1,)}
    pair = [device(1), device(2), device(5, worker_id=5)]
    assert given(place_jobs(situation([job(devices=2, excluded_devices=frozenset({1, 2}))], pair))) == {"a": (1, 2)}
    barred = job(excluded_devices=frozenset({1}), barred_devices=frozenset({2}))
    assert given(place_jobs(situation([barred], pair[:2]))) == {"a": (1,)}


# ---- turns


def test_the_team_with_less_recent_use_for_its_weight_is_first() -> None:
    queue = [job("a", team_id=1), job("b", team_id=2, queued_at=NOW)]
    teams = [team(1, recent_seconds=10 * HOUR), team(2, recent_seconds=15 * HOUR, weight=2.0)]
    assert given(place_jobs(situation(queue, [device(1)], teams=teams))) == {"b": (1,)}


def test_free_devices_are_shared_out_in_one_pass() -> None:
    queue = [job(f"a{n}", team_id=1) for n in range(4)] + [job(f"b{n}", team_id=2, queued_at=NOW) for n in range(4)]
    made = place_jobs(situation(queue, [device(n, worker_id=n) for n in range(4)]))
    assert sorted(given(made)) == ["a0", "a1", "b0", "b1"]


def test_what_runs_counts_before_it_has_taken_its_time() -> None:
    queue = [job("a", team_id=1), job("b", team_id=2, queued_at=NOW)]
    just_begun = run(1, 2, team_id=1, started_at=NOW, expected_end=NOW + 5 * HOUR)
    assert given(place_jobs(situation(queue, [device(1), device(2)], just_begun))) == {"b": (1,)}


@pytest.mark.parametrize(
    ("waited_hours", "last_start", "priority", "is_first"),
    [
        (7, 0.0, 0, False),
        (8, 0.0, 0, True),  # Eight hours, and nothing of its team has started: two levels.
        (99, NOW - 4 * HOUR, 0, False),  # Its team is served.
        (2 * 7 * 24, NOW, 0, True),  # Two weeks are two levels all the same.
        (99, NOW, -1, False),  # Lifted to 0, and no further.
    ],
)
def test_higher_priority_is_first_until_the_other_has_waited_for_it(
    waited_hours: float, last_start: float, priority: int, is_first: bool
) -> None:
    old = job("old", priority=priority, queued_at=NOW - waited_hours * HOUR)
    urgent = job("urgent", team_id=2, priority=2, queued_at=NOW)
    teams = [team(1, last_start=last_start), team(2, recent_seconds=1.0)]
    assert given(place_jobs(situation([old, urgent], [device(1)], teams=teams))) == {
        "old" if is_first else "urgent": (1,)
    }


def test_a_negative_priority_is_forgotten_after_hours() -> None:
    low, usual = job("low", priority=-2, queued_at=NOW - 8 * HOUR), job("usual", queued_at=NOW)
    teams = [team(1, last_start=NOW)]
    assert given(place_jobs(situation([low, usual], [device(1)], teams=teams))) == {"low": (1,)}


def test_age_alone_does_not_undo_fair_share() -> None:
    queue = [job("old", team_id=1, queued_at=NOW - 900 * HOUR), job("new", team_id=2, queued_at=NOW)]
    teams = [team(1, recent_seconds=HOUR), team(2)]
    assert given(place_jobs(situation(queue, [device(1)], teams=teams))) == {"new": (1,)}


# ---- quotas


def test_a_team_gets_no_more_devices_than_its_quota() -> None:
    queue = [job(f"a{n}") for n in range(3)]
    made = place_jobs(situation(queue, [device(n) for n in range(4)], run(1, 3), teams=[team(max_devices=2)]))
    assert given(made) == {"a0": (0,)}
    assert made.waits["a1"].code == "team_devices"


def test_a_job_that_is_expected_to_take_more_hours_than_are_left_waits_for_the_next_month() -> None:
    queue = [job("long", expected_seconds=3 * HOUR), job("short", expected_seconds=HOUR)]
    made = place_jobs(situation(queue, [device(1), device(2)], teams=[team(max_hours=10.0, used_hours=8.0)]))
    assert given(made) == {"short": (1,)}
    assert made.waits["long"].code == "team_hours"


# ---- reservations and back-fill


def test_backfill_uses_the_gap_before_a_reservation_and_nothing_longer() -> None:
    large = job("large", devices=2, queued_at=NOW - 3 * HOUR)
    long, unknown = job("long", expected_seconds=2 * HOUR), job("unknown")
    short = job("short", expected_seconds=HOUR, queued_at=NOW)
    made = place_jobs(situation([large, long, unknown, short], [device(1), device(2)], run(1, 2)))
    assert given(made) == {"short": (1,)}
    assert made.waits["large"].expected_start == NOW + HOUR
    assert [made.waits[name].place for name in ("large", "long", "unknown")] == [1, 2, 3]


def test_a_device_that_two_reservations_follow_on_is_kept_for_the_first() -> None:
    queue = [job(name, devices=2, queued_at=NOW - 9 * HOUR, expected_seconds=HOUR) for name in ("first", "second")]
    late = job("late", expected_seconds=1.5 * HOUR)
    assert given(place_jobs(situation([*queue, late], [device(1), device(2)], run(1, 2)))) == {}


# ---- several jobs on one device


def test_small_jobs_share_a_device_only_where_permitted_and_as_far_as_memory_goes() -> None:
    queue = [job(f"a{n}", memory_bytes=30 * GB) for n in range(3)]
    assert given(place_jobs(situation(queue, [h100(1)]))) == {"a0": (1,)}
    made = place_jobs(situation(queue, [h100(1, is_shared=True)]))
    assert given(made) == {"a0": (1,), "a1": (1,)}
    assert {assignment.memory_bytes for assignment in made.assignments} == {30 * GB}


def test_a_job_of_unknown_need_shares_with_nobody() -> None:
    shared = [h100(1, is_shared=True)]
    assert given(place_jobs(situation([job()], shared, run(1, 1, memory_bytes=GB)))) == {}
    assert place_jobs(situation([job()], shared)).assignments[0].memory_bytes is None


def test_no_more_jobs_share_a_device_than_it_takes() -> None:
    """However small they are: a CPU takes as many as it has cores."""
    cpu = device(1, kind="cpu", name="EPYC, 3 cores", is_shared=True, max_runs=3)
    queue = [job(str(number), memory_bytes=1) for number in range(5)]
    assert len(given(place_jobs(situation(queue, [cpu])))) == 3
    busy = run(1, 1, memory_bytes=1)
    assert len(given(place_jobs(situation(queue, [cpu], busy)))) == 2


def test_an_idle_device_comes_before_a_shared_one() -> None:
    devices = [h100(1, is_shared=True), h100(2, is_shared=True)]
    made = place_jobs(situation([job(memory_bytes=GB)], devices, run(1, 1, memory_bytes=GB)))
    assert given(made) == {"a": (2,)}


# ---- preemption


def test_the_least_important_and_youngest_run_makes_room() -> None:
    runs = [
        run(1, 1, priority=0, may_be_preempted=True),
        run(2, 2, priority=-1, may_be_preempted=True, started_at=NOW - 5 * HOUR),
        run(3, 3, priority=-1, may_be_preempted=True, started_at=NOW - 2 * HOUR),
        run(4, 4, priority=-5),
    ]
    made = place_jobs(situation([job(priority=1)], [device(n) for n in (1, 2, 3, 4)], *runs))
    assert made.preemptions == (Preemption(3, "a"),)
    assert "reserved for this job" not in made.waits["a"].sentence


def test_nobody_makes_room_for_an_equal_or_for_a_job_that_starts_soon() -> None:
    equal = run(1, 1, priority=1, may_be_preempted=True)
    assert place_jobs(situation([job(priority=1)], [device(1)], equal)).preemptions == ()
    soon = run(1, 1, may_be_preempted=True, started_at=NOW, expected_end=NOW + 30)
    assert place_jobs(situation([job(priority=1)], [device(1)], soon)).preemptions == ()


def test_a_run_on_several_devices_is_stopped_once_and_makes_room_for_as_many_jobs() -> None:
    queue = [job(name, priority=1) for name in ("a", "b", "c")]
    made = place_jobs(situation(queue, [device(n) for n in (1, 2)], run(1, 1, 2, may_be_preempted=True)))
    assert made.preemptions == (Preemption(1, "a"),)
    assert [made.waits[name].expected_start == made.waits["a"].expected_start for name in ("b", "c")] == [True, False]


def test_for_several_devices_only_as_many_runs_stop_as_must() -> None:
    runs = [run(n, n, may_be_preempted=True) for n in (1, 2)]
    made = place_jobs(situation([job(priority=1, devices=2)], [device(n) for n in (1, 2, 3)], *runs))
    assert len(made.preemptions) == 1
