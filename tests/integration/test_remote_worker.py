"""`finetune-hub worker`: a machine joins with an invitation alone, and its trainings outlive it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import COMMAND, OWN, RunningHub, Training, wait_until
from tests.integration.test_kills import is_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CLEAN = {key: value for key, value in os.environ.items() if key not in OWN and not key.startswith("FINETUNE_HUB_")}


class RemoteWorker:
    """The worker gpu-7, with what `workers invite` printed and nothing else of the hub."""

    def __init__(self, hub: RunningHub, folder: Path) -> None:
        self.home, self.log = folder / "gpu-7", folder / "gpu-7.log"
        command = [*COMMAND, "workers", "invite", "gpu-7", "--home", str(hub.home)]
        printed = subprocess.run(command, env=CLEAN, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
        addresses = dict(shlex.split(line)[1].split("=", 1) for line in printed[:3])
        self.environment = {**CLEAN, **addresses, "FINETUNE_HUB_LEASE_SECONDS": "30"}
        self.command = [*COMMAND, *printed[3].split()[1:], "--labels", "a100,eu", "--home", str(self.home)]

    def start(self) -> None:
        with self.log.open("ab") as log:
            before = log.tell()
            self.process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)
        wait_until(lambda: "has joined" in self.log.read_text()[before:], seconds=60, what="the worker's joining")

    def stop(self, how: signal.Signals = signal.SIGINT) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def worker(hub: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteWorker]:
    """All jobs go to gpu-7 while it runs."""
    remote = RemoteWorker(hub, tmp_path_factory.mktemp("gpu-7"))
    remote.start()
    with hub.client() as client:
        client.drain_worker("box")
        yield remote
        client.resume_worker("box")
        client.drain_worker("gpu-7")
    remote.stop()
    hub.manage("revoke_worker", "gpu-7")


def trainers_of(home: Path) -> list[int]:
    """The supervisors of a worker's attempts that live."""
    found = [json.loads(file.read_text())["pid"] for file in home.glob("work/*/*/supervisor.json")]
    return [pid for pid in found if is_running(pid)]


def test_a_stopped_worker_takes_its_training_up_again(worker: RemoteWorker, training: Training) -> None:
    [before] = trainers_of(worker.home)
    assert worker.stop() == 1  # Celery's word for a stop by Ctrl-C.
    assert trainers_of(worker.home) == [before]
    worker.start()
    job = training.finish()
    assert job.state == "succeeded", job
    assert job.published.version == 1
    said = [event.message for event in training.client.events(training.job_id)]
    assert [message for message in said if "started on" in message] == ["Attempt 1 started on gpu-7."]


def test_a_second_worker_in_the_same_home_is_refused(worker: RemoteWorker) -> None:
    again = subprocess.run(worker.command, env=worker.environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "The worker gpu-7 is already running in" in again.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set."),
        ({"ARTIFACT_URL": ""}, "ARTIFACT_URL is not set."),
        ({"DATABASE_URL": "postgresql://x:y@127.0.0.1:9/x"}, "The database does not respond"),
        ({"REDIS_URL": "redis://127.0.0.1:9/0"}, "The queue does not respond"),
        ({"ARTIFACT_URL": "file:///nowhere/at/all"}, "is not a folder on this machine"),
        ({"ARTIFACT_URL": "s3://b?endpoint=http://127.0.0.1:9"}, "The artifact store cannot be read"),
    ],
)
def test_an_address_that_does_not_answer(
    worker: RemoteWorker, tmp_path: Path, change: dict[str, str], said: str
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    command = [*worker.command[:-1], str(tmp_path / "other")]
    found = subprocess.run(
        command, env={**worker.environment, **keys, **change}, capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode in {1, 2}
    assert said in found.stderr
    assert "Traceback" not in found.stderr


def test_another_name_than_the_invited_one(worker: RemoteWorker, tmp_path: Path) -> None:
    command = [*COMMAND, "worker", "--name", "gpu-9", "--home", str(tmp_path / "gpu-9")]
    found = subprocess.run(command, env=worker.environment, capture_output=True, text=True, check=False, timeout=60)
    assert found.returncode == 1
    assert "is for the worker gpu-7, not for gpu-9" in found.stderr
