"""Pause and resume of a real training: its device is free meanwhile, and its curve is the uninterrupted one's."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime

import pytest

from finetune_hub.cli.answers import JobDetail
from finetune_hub.cli.client import Hub
from tests.integration.conftest import LEASE_SECONDS, STEPS, RunningHub, Training, training_recipe, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def wait_for_state(client: Hub, job_id: str, state: str, *, seconds: float = 60) -> JobDetail:
    def look() -> JobDetail | None:
        job = client.job(job_id)
        return job if job.state == state else None

    found: JobDetail = wait_until(look, seconds=seconds, what=f"the state {state}")
    return found


def curve(client: Hub, job_id: str) -> list[tuple[int, float, float]]:
    return [(point.step, point.loss, point.grad_norm) for point in client.metrics(job_id)]


def test_a_training_paused_twice_has_the_curve_of_one_that_never_was(hub: RunningHub, training: Training) -> None:
    """The first pause is timed; the poke of the second is lost, which only delays it."""
    client, job_id = training.client, training.job_id
    client.pause(job_id, "Pause 1.")
    first = wait_for_state(client, job_id, "paused")
    said = {event.message.partition(" ")[0]: event.created_at for event in client.events(job_id)}
    # The poke reached it; by its heartbeat it would have learnt of it later, on average.
    assert seconds_between(said["Pausing:"], said["Stopped"]) < LEASE_SECONDS / 3

    other = client.clone(job_id, {"training": {"max_steps": 2}, "adapter_name": "in-between"})
    assert list(client.watch(other.id))[-1].job.state == "succeeded"  # The device is free.
    client.resume(job_id)
    wait_until(lambda: client.job(job_id).step > first.step, seconds=60, what="a step")

    trainer = hub.trainer()
    os.kill(trainer, signal.SIGSTOP)  # A fast machine would be done before the worker's next heartbeat.
    os.kill(hub.pid_of("valkey"), signal.SIGKILL)  # `up` brings it back; what was said meanwhile is lost.
    client.pause(job_id, "Pause 2.")
    wait_until(lambda: was_asked_to_stop(hub), seconds=90, what="the wish's arrival by a heartbeat")
    os.kill(trainer, signal.SIGCONT)
    second = wait_for_state(client, job_id, "paused", seconds=90)
    client.resume(job_id)
    for number, paused in enumerate((first, second), 1):
        assert [attempt.state for attempt in paused.attempts] == ["paused"] * number
        assert paused.step == paused.checkpoints[0]  # Not a step is taken twice.
    ended = training.finish()
    assert ended.state == "succeeded", ended
    assert [attempt.state for attempt in ended.attempts] == ["succeeded", "paused", "paused"]

    whole = client.clone(job_id, {"adapter_name": "whole"})
    assert list(client.watch(whole.id))[-1].job.state == "succeeded"
    assert curve(client, whole.id) == curve(client, job_id)
    weights = [
        {file.path: file.sha256 for file in client.adapter(published.adapter_id, published.version).files}
        for published in (client.job(one).published for one in (job_id, whole.id))
    ]
    assert weights[0]["adapter_model.safetensors"] == weights[1]["adapter_model.safetensors"]


def was_asked_to_stop(hub: RunningHub) -> bool:
    """Whether the worker has told the only supervisor so."""
    [lease] = hub.home.glob("work/*/*/lease.json")
    return bool(json.loads(lease.read_text())["stop"])


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def test_a_cancelled_training_is_retried_from_its_checkpoint(hub: RunningHub, training: Training) -> None:
    client, job_id = training.client, training.job_id
    client.cancel(job_id)
    cancelled = list(client.watch(job_id))[-1].job
    assert cancelled.state == "cancelled"
    earlier = cancelled.checkpoints[-1]
    client.retry(job_id, from_step=earlier)
    ended = training.finish()
    assert ended.state == "succeeded", ended
    assert ended.attempts[0].resumed_from_step == earlier
    assert [step for step, _, _ in curve(client, job_id)] == list(range(1, STEPS + 1))


def test_a_time_limit_publishes_what_is_trained(hub: RunningHub) -> None:
    with hub.client() as client:
        job = client.submit(training_recipe(max_steps=100_000, max_duration="8s"))
        ended = list(client.watch(job.id))[-1].job
    assert ended.state == "succeeded", ended
    assert ended.result["stopped_by"] == "max_duration"
    assert ended.published.version >= 1
    assert 0 < ended.result["steps"] < 100_000
