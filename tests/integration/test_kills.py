"""`kill -9` in the middle of a training: nothing is lost, nothing happens twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from finetune_hub.cli.answers import JobDetail
from tests.integration.conftest import LEASE_SECONDS, STEPS, RunningHub, Training, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def assert_one_adapter(training: Training, job: JobDetail) -> None:
    """The job succeeded, and published one version that can be had whole; its curve has each step once."""
    assert job.state == "succeeded", job
    published = job.published
    found = training.client.adapter(published.adapter_id, published.version)
    assert published.version == 1
    assert found.job_id == training.job_id
    assert [point.step for point in training.client.metrics(training.job_id)] == list(range(1, STEPS + 1))


def messages(training: Training) -> list[str]:
    return [event.message for event in training.client.events(training.job_id)]


def test_killed_trainer_resumes_from_its_checkpoint(hub: RunningHub, training: Training) -> None:
    os.kill(hub.trainer(), signal.SIGKILL)
    job = training.finish()
    assert_one_adapter(training, job)
    said = messages(training)
    assert any("killed by signal 9" in message for message in said)
    assert any(message.startswith("Resuming from the checkpoint of step") for message in said)


def test_killed_worker_finds_its_trainer_again(hub: RunningHub, training: Training) -> None:
    trainer, worker = hub.trainer(), hub.pid_of("worker")
    os.kill(worker, signal.SIGKILL)
    hub.restarted("worker", worker)
    assert Path(f"/proc/{trainer}").exists() or training.client.job(training.job_id).state == "succeeded"
    job = training.finish()
    assert_one_adapter(training, job)
    assert sum(message.startswith("Attempt") and "started" in message for message in messages(training)) == 1


def test_killed_valkey_costs_nothing(hub: RunningHub, training: Training) -> None:
    valkey = hub.pid_of("valkey")
    os.kill(valkey, signal.SIGKILL)
    hub.restarted("valkey", valkey)
    job = training.finish()
    assert_one_adapter(training, job)
    assert sum(message.startswith("Attempt") and "started" in message for message in messages(training)) == 1


def test_killed_up_leaves_a_trainer_only_until_its_lease_ends(hub: RunningHub, training: Training) -> None:
    parts = [part.identity for part in hub.state.parts]
    [supervisor] = hub.supervisors()
    hub.kill_up()
    wait_until(
        lambda: not any(identity and identity.is_alive() for identity in parts), seconds=10, what="the end of the parts"
    )
    os.kill(hub.trainer(), signal.SIGSTOP)  # It does not end by itself before its lease does.
    killed_at = time.monotonic()
    wait_until(
        lambda: not Path(f"/proc/{supervisor}/exe").exists() or not is_running(supervisor),
        seconds=LEASE_SECONDS + 10,
        what="the end of the trainer",
    )
    assert time.monotonic() - killed_at < LEASE_SECONDS + 5
    hub.start()
    with hub.client() as client:
        after = Training(client, training.job_id)
        assert_one_adapter(after, after.finish())
        assert any(message.startswith("Resuming from the checkpoint of step") for message in messages(after))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
