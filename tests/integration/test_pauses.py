"""Pause and resume of a real training: its device is free meanwhile, and its curve is the uninterrupted one's."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from finetune_hub.cli.client import Hub
from tests.integration.conftest import RunningHub, Training, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]


def wait_for_state(client: Hub, job_id: str, state: str, *, seconds: float = 60) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        job = client.job(job_id)
        return job if job["state"] == state else None

    found: dict[str, Any] = wait_until(look, seconds=seconds, what=f"the state {state}")
    return found


def curve(client: Hub, job_id: str) -> list[tuple[int, float, float]]:
    return [(point["step"], point["loss"], point["grad_norm"]) for point in client.metrics(job_id)]


def test_a_training_paused_twice_has_the_curve_of_one_that_never_was(hub: RunningHub, training: Training) -> None:
    client, job_id = training.client, training.job_id
    for number in (1, 2):
        client.pause(job_id, f"Pause {number}.")
        job = wait_for_state(client, job_id, "paused")
        assert [attempt["state"] for attempt in job["attempts"]] == ["paused"] * number
        assert job["step"] == job["checkpoints"][0]  # Not a step is taken twice.
        if number == 1:  # The device is free: another job comes in between.
            other = client.clone(job_id, {"training": {"max_steps": 2}, "adapter_name": "in-between"})
            assert list(client.watch(other["id"]))[-1].job["state"] == "succeeded"
        client.resume(job_id)
        wait_for_state(client, job_id, "running")
        wait_until(lambda: client.job(job_id)["step"] > job["step"], seconds=60, what="a step")  # noqa: B023
    ended = training.finish()
    assert ended["state"] == "succeeded", ended
    assert [attempt["state"] for attempt in ended["attempts"]] == ["succeeded", "paused", "paused"]

    whole = client.clone(job_id, {"adapter_name": "whole"})
    assert list(client.watch(whole["id"]))[-1].job["state"] == "succeeded"
    assert curve(client, whole["id"]) == curve(client, job_id)
    weights = [
        {
            file["path"]: file["sha256"]
            for file in client.adapter(published["adapter_id"], published["version"])["files"]
        }
        for published in (client.job(one)["published"] for one in (job_id, whole["id"]))
    ]
    assert weights[0]["adapter_model.safetensors"] == weights[1]["adapter_model.safetensors"]


def test_a_pause_reaches_the_trainer_within_a_second(hub: RunningHub, training: Training) -> None:
    client, job_id = training.client, training.job_id
    began = time.monotonic()
    client.pause(job_id)
    wait_for_state(client, job_id, "paused")
    took = time.monotonic() - began
    said = {event["message"].partition(" ")[0]: event["created_at"] for event in client.events(job_id)}
    print(f"paused in {took:.2f} s; stopped after {seconds_between(said['Pausing:'], said['Stopped']):.2f} s")
    client.cancel(job_id)
    assert client.job(job_id)["state"] == "cancelled"
    assert seconds_between(said["Pausing:"], said["Stopped"]) < 3  # A second, on a machine that does other things too.


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def test_a_lost_poke_only_delays_a_pause(
    hub: RunningHub, training: Training, without_valkey: Callable[[], None]
) -> None:
    without_valkey()
    training.client.pause(training.job_id)
    job = wait_for_state(training.client, training.job_id, "paused", seconds=90)
    assert job["attempts"][0]["state"] == "paused"
    training.client.cancel(training.job_id)


@pytest.fixture
def without_valkey(hub: RunningHub) -> Callable[[], None]:
    """Kills Valkey; `up` brings it back, but pokes of the meantime are lost."""
    import os
    import signal

    return lambda: os.kill(hub.pid_of("valkey"), signal.SIGKILL)


def test_a_cancelled_training_is_retried_from_its_checkpoint(hub: RunningHub, training: Training) -> None:
    client, job_id = training.client, training.job_id
    client.cancel(job_id)
    cancelled = list(client.watch(job_id))[-1].job
    assert cancelled["state"] == "cancelled"
    earlier = cancelled["checkpoints"][-1]
    client.retry(job_id, from_step=earlier)
    ended = training.finish()
    assert ended["state"] == "succeeded", ended
    assert ended["attempts"][0]["resumed_from_step"] == earlier
    assert [step for step, _, _ in curve(client, job_id)] == list(range(1, 601))


def test_a_time_limit_publishes_what_is_trained(hub: RunningHub, training: Training) -> None:
    client = training.client
    client.cancel(training.job_id)
    job = client.clone(training.job_id, {"training": {"max_steps": 100_000}, "runtime": {"max_duration": "8s"}})
    ended = list(client.watch(job["id"]))[-1].job
    assert ended["state"] == "succeeded", ended
    assert ended["result"]["stopped_by"] == "max_duration"
    assert ended["published"]["version"] >= 1
    assert 0 < ended["result"]["steps"] < 100_000
