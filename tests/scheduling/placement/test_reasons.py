"""Why a job waits: each sentence names the queue position, what blocks the job, and when it is expected to start."""

from __future__ import annotations

import pytest

from finetune_hub.scheduling.placement.placing import place_jobs
from finetune_hub.scheduling.placement.situation import Device, WaitingJob
from tests.scheduling.placement.situations import GB, HOUR, NOW, device, job, run, situation, team

CPU = device(9, worker_id=9, kind="cpu", name="EPYC, 8 cores", memory_bytes=64 * GB)
SOON = " It is expected to start around 09:00 UTC."


def sentence(queue: list[WaitingJob], *arguments: object, of: str = "a", **keywords: object) -> str:
    return place_jobs(situation(queue, *arguments, **keywords)).waits[of].sentence  # type: ignore[arg-type]


def test_place_devices_and_expected_start() -> None:
    busy = [run(1, 1), run(2, 2, expected_end=NOW + 30 * HOUR)]
    queue = [job("a", expected_seconds=HOUR), job("b", memory_bytes=20 * GB, expected_seconds=HOUR, queued_at=NOW)]
    devices = [device(1), device(2)]
    assert sentence(queue, devices, *busy) == "Next in the queue: all 2 devices are busy." + SOON
    assert sentence(queue, devices, *busy, of="b") == (
        "Number 2 in the queue: it needs a device with 20.0 GB, and all 2 suitable devices (NVIDIA L4) are busy. "
        "It is expected to start around 10:00 UTC."
    )


def test_no_promise_when_nobody_knows() -> None:
    said = sentence([job()], [device(1)], run(1, 1, expected_end=None))
    assert said.startswith("Next in the queue: the only device is busy. Its start time is unknown")


def test_a_start_on_another_day_is_dated() -> None:
    said = sentence([job()], [device(1)], run(1, 1, expected_end=NOW + 30 * HOUR))
    assert said.endswith("It is expected to start on 16 January around 14:00 UTC.")


def test_what_is_far_off_is_told_roughly() -> None:
    queue = [job(f"job-{n:04}", expected_seconds=HOUR) for n in range(260)]
    waits = place_jobs(situation(queue, [device(1)], run(1, 1, expected_end=NOW + 100))).waits
    assert waits["job-0099"].sentence.startswith("Number 100 in the queue")
    assert waits["job-0149"].sentence.startswith("About number 200 in the queue")
    assert waits["job-0259"].sentence.startswith("About number 300 in the queue")
    assert waits["job-0002"].expected_start == NOW + 2 * HOUR + 300
    assert waits["job-0099"].expected_start == NOW + 100 * HOUR


def test_free_devices_that_are_kept_are_named_so() -> None:
    queue = [job("a", devices=2, queued_at=NOW - HOUR), job("b")]
    devices = [device(1), device(2)]
    assert sentence(queue, devices, run(1, 1)) == (
        "Next in the queue: it needs 2 devices on one worker, and of the 2 suitable devices (NVIDIA L4), "
        "1 is free and reserved for this job until enough are free." + SOON
    )
    assert "of the 2 devices, 1 is free, but reserved for jobs ahead." in sentence(queue, devices, run(1, 1), of="b")


def test_quota_of_devices() -> None:
    said = sentence([job()], [device(1), device(2)], run(1, 1), teams=[team(name="Vision", max_devices=1)])
    assert said == "Next in the queue: team Vision uses 1 of the 1 devices that its quota allows at a time." + SOON
    said = sentence([job(devices=2)], [device(1), device(2)], teams=[team(name="Vision", max_devices=1)])
    assert said == (
        "It needs 2 devices, and the quota of team Vision allows 1 at a time. Lower `runtime.gpus` or ask an admin for "
        "a larger quota."
    )


def test_quota_of_hours() -> None:
    short_of_hours = [team(name="Vision", max_hours=10, used_hours=9)]
    assert sentence([job(expected_seconds=2 * HOUR)], [device(1)], teams=short_of_hours) == (
        "Next in the queue: after its jobs ahead, team Vision has 1.0 of its 10 device hours left this month, and this "
        "job is expected to take 2.0. It is expected to start on 31 January around 08:00 UTC."
    )
    said = sentence([job(expected_seconds=20 * HOUR)], [device(1)], teams=short_of_hours)
    assert said.startswith("It is expected to take 20.0 device hours, and the quota of team Vision allows 10 per")


@pytest.mark.parametrize(
    ("devices", "wants", "words"),
    [
        ([], {}, "No worker has joined yet"),
        ([device(1, away="offline")], {}, "No worker can take jobs"),
        ([device(1, away="drained"), device(2, away="offline")], {}, "No worker can take jobs"),
        ([device(1, away="drained"), device(2, away="drained")], {}, "Every worker is drained"),
        ([CPU, device(1, away="drained")], {}, "(NVIDIA L4) take no new jobs at the moment: gpu-1 is drained."),
        ([CPU, device(1)], {"memory_bytes": 92 * GB}, "It needs a device with 92.0 GB, and the largest (EPYC"),
        ([CPU, device(1)], {"wish": "h100"}, "No device matches `runtime.device: h100`. The hub has EPYC"),
        ([CPU, device(1)], {"labels": frozenset({"eu"})}, "No worker with such a device has the labels that"),
        ([device(1), device(2)], {"devices": 4}, "It needs 4 devices on one worker, and the largest suitable worker"),
        ([device(1)], {"barred_devices": frozenset({1})}, "It needs one of the hub's own workers"),
    ],
)
def test_what_no_device_can_give_is_named(devices: list[Device], wants: dict[str, object], words: str) -> None:
    said = place_jobs(situation([job(**wants)], devices)).waits["a"]
    assert words in said.sentence
    assert (said.code, said.expected_start) == ("no_device", None)
