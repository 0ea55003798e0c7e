"""A whole hub in processes of its own, with a tiny model, for tests that kill its parts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_hub.cli.answers import JobDetail
from finetune_hub.cli.client import Hub, JobLook
from finetune_hub.embedded.hub_environment import load_environment
from finetune_hub.embedded.state import UpState, read_state
from tests.browser.conftest import browser  # noqa: F401  (a fixture)
from tests.fake_huggingface import FakeHuggingFace, running_huggingface
from tests.tiny_models import make_chat_rows, make_tiny_model

START_SECONDS = 90.0
LEASE_SECONDS = 30  # Longer than a worker takes to be started again on a busy machine.
STEPS, CHECKPOINT_EVERY = 600, 60
OWN = ("DATABASE_URL", "REDIS_URL", "ARTIFACT_URL", "SECRET_KEY", "FINETUNE_HUB_URL", "ALLOWED_HOSTS")
COMMAND = [sys.executable, "-P", "-m", "finetune_hub.cli.main"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist the tests of the session's hub run in one process: it starts once."""
    for item in items:
        if item.path.parent == Path(__file__).parent and "hub" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("hub"))


def wait_until(holds: Callable[[], Any], *, seconds: float, what: str) -> Any:
    """What `holds` returns, as soon as that is true."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if found := holds():
            return found
        time.sleep(0.25)  # Each question costs the hub time that a training could have.
    pytest.fail(f"{what} did not happen in {seconds:.0f} s")


@dataclass
class RunningHub:
    """A hub whose parts may be killed; `start` starts it, again and again."""

    home: Path
    environment: dict[str, str]
    up: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def state(self) -> UpState:
        state = read_state(self.home)
        assert state is not None
        return state

    def start(self) -> None:
        with (self.home.parent / "up.log").open("ab") as log:
            command = [*COMMAND, "up", "--home", str(self.home), "--port", "0", "--worker-name", "box"]
            self.up.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))
        wait_until(
            lambda: (state := read_state(self.home)) and state.is_healthy(),
            seconds=START_SECONDS,
            what="the start of the hub",
        )

    def kill_up(self) -> None:
        self.up[-1].kill()
        self.up[-1].wait()

    def pid_of(self, part: str) -> int:
        identity = next(found.identity for found in self.state.parts if found.name == part)
        assert identity is not None
        return identity.pid

    def restarted(self, part: str, old_pid: int) -> None:
        """Wait until `up` has brought the part back."""
        wait_until(
            lambda: (state := self.state).is_healthy() and self.pid_of(part) != old_pid and state,
            seconds=START_SECONDS,
            what=f"the return of {part}",
        )

    def supervisors(self) -> list[int]:
        files = self.home.glob("work/*/*/supervisor.json")
        return [json.loads(file.read_text())["pid"] for file in files]

    def trainer(self) -> int:
        """The process that trains, found as the supervisor's only child."""
        [supervisor] = self.supervisors()
        children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
        return int(children[0])

    def new_token(self, *options: str) -> str:
        return self.manage("create_token", *options)

    def login_link(self) -> str:
        return self.manage("login_link", "--base-url", self.state.url)

    def manage(self, *arguments: str) -> str:
        """What a management command prints."""
        command = [sys.executable, "-P", "-m", "django", *arguments]
        environment = load_environment(self.home)
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def client(self) -> Hub:
        return Hub(self.state.url, self.new_token())

    def stop(self) -> None:
        if self.up and self.up[-1].poll() is None:
            self.up[-1].send_signal(signal.SIGINT)  # Ctrl-C; tests/embedded ends one by `down`.
            assert self.up[-1].wait(60) == 0


@pytest.fixture(scope="session")
def fake_huggingface() -> Iterator[FakeHuggingFace]:
    """The Hugging Face that workers fetch from."""
    with running_huggingface() as server:
        yield server


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory, fake_huggingface: FakeHuggingFace) -> Iterator[RunningHub]:
    """A hub with the base model `tiny` and the dataset `rows`."""
    folder = tmp_path_factory.mktemp("hub")
    for parent in (folder, folder.parent):
        parent.chmod(0o711)
    environment = {key: value for key, value in os.environ.items() if key not in OWN}
    environment |= {"FINETUNE_HUB_LEASE_SECONDS": str(LEASE_SECONDS), "FINETUNE_HUB_RETRY_SECONDS": "0.5"}
    environment |= {"HF_ENDPOINT": fake_huggingface.url, "FINETUNE_HUB_ALLOW_PRIVATE_URLS": "1"}
    running = RunningHub(folder / "home", environment)
    make_tiny_model(folder / "home" / "models" / "tiny")
    rows = folder / "rows.jsonl"
    make_chat_rows(rows, 64)
    try:
        running.start()
        with running.client() as client:
            job_id = client.import_base_model("tiny", "folder:tiny").job_id
            ended = list(client.watch(job_id))[-1].job
            assert ended.state == "succeeded", ended
            client.push_dataset(rows, "rows")
        yield running
    finally:
        running.stop()


@dataclass
class Training:
    """A job in the middle of its training: it has a checkpoint, and many steps to go."""

    client: Hub
    job_id: str

    def finish(self) -> JobDetail:
        looks: list[JobLook] = list(self.client.watch(self.job_id))
        return looks[-1].job


def training_recipe(*, max_steps: int = STEPS, **runtime: Any) -> dict[str, Any]:
    """A training of the tiny model, its adapter under a name of its own."""
    return {
        "base_model": "tiny",
        "dataset": {"name": "rows"},
        "adapter_name": f"a-{time.monotonic_ns()}",
        "training": {
            "epochs": 100,
            "max_steps": max_steps,
            "micro_batch_size": 2,
            "max_seq_len": 128,
            "checkpoint_every_steps": CHECKPOINT_EVERY,
        },
        "runtime": {"dtype": "float32", **runtime},
    }


@pytest.fixture
def training(hub: RunningHub) -> Iterator[Training]:
    with hub.client() as client:
        job = client.submit(training_recipe())
        wait_until(lambda: client.job(job.id).checkpoints, seconds=120, what="the first checkpoint")
        yield Training(client, job.id)
