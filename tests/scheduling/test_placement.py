"""The plan: who gets which device, and what everybody else is told. A pure function, so no service is needed."""

from __future__ import annotations

import random

import pytest

from finetune_hub.scheduling.placement import Fleet, FreeDevice, WaitingJob, plan, waiting_reason

GIB = 2**30


def jobs(*ids: str) -> list[WaitingJob]:
    return [WaitingJob(id_) for id_ in ids]


def test_first_come_first_served_and_the_largest_device_first() -> None:
    free = [FreeDevice(1, 10, 24 * GIB), FreeDevice(2, 11, 80 * GIB)]
    made = plan(jobs("a", "b", "c"), free, Fleet(devices=2, usable_devices=2))
    assert [(given.job_id, given.worker_id, given.device_ids) for given in made.assignments] == [
        ("a", 11, (2,)),
        ("b", 10, (1,)),
    ]
    assert made.waiting_reasons == {"c": "Next in line: all 2 devices are busy."}


def test_a_job_is_kept_away_from_devices_that_failed_it_and_others_are_not() -> None:
    queue = [WaitingJob("a", frozenset({1})), WaitingJob("b"), WaitingJob("c")]
    made = plan(queue, [FreeDevice(1, 10, GIB)], Fleet(devices=2, usable_devices=2))
    assert [(given.job_id, given.device_ids) for given in made.assignments] == [("b", (1,))]
    assert list(made.waiting_reasons) == ["a", "c"]


def test_nobody_waits_while_a_device_is_free() -> None:
    made = plan(jobs("a"), [FreeDevice(1, 10, GIB), FreeDevice(2, 10, GIB)], Fleet(2, 2))
    assert len(made.assignments) == 1
    assert made.waiting_reasons == {}


@pytest.mark.parametrize(
    ("fleet", "words"),
    [
        (Fleet(0, 0), "No worker has joined yet"),
        (Fleet(3, 0), "No worker is fit for work"),
        (Fleet(3, 0, draining_devices=2), "No worker is fit for work"),
        (Fleet(3, 0, draining_devices=3), "Every worker is drained"),
        (Fleet(1, 1), "Number 2 in line: the one device is busy"),
        (Fleet(4, 3), "Number 2 in line: all 3 devices are busy"),
    ],
)
def test_the_reason_names_what_blocks(fleet: Fleet, words: str) -> None:
    assert words in waiting_reason(2, fleet)


def test_no_device_twice_no_job_twice_and_each_job_is_placed_or_told_why() -> None:
    draw = random.Random(3)
    for _ in range(200):
        queue = jobs(*(f"job-{number}" for number in range(draw.randrange(8))))
        free = [FreeDevice(number, draw.randrange(3), draw.choice([1, 2]) * GIB) for number in range(draw.randrange(8))]
        made = plan(queue, free, Fleet(8, 8))
        placed = [given.job_id for given in made.assignments]
        used = [device for given in made.assignments for device in given.device_ids]
        assert len(used) == len(set(used)) == min(len(queue), len(free))
        assert placed + list(made.waiting_reasons) == [job.job_id for job in queue]
        owner = {device.device_id: device.worker_id for device in free}
        assert all(owner[device] == given.worker_id for given in made.assignments for device in given.device_ids)
