"""Two workers with two CPU devices each, eight jobs, three teams: the rules say who is next, and each wait why."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from finetune_hub.cli.answers import Attempt
from finetune_hub.cli.client import ENDED_STATES, Hub
from tests.integration.conftest import COMMAND, OWN, RunningHub, wait_until
from tests.tiny_models import make_chat_rows, make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MAX_DEVICES = {"ants": 1, "bees": 2, "cats": None}
WEIGHTS = {"ants": 1.0, "bees": 2.0, "cats": 1.0}
TOKEN_OF_NEW_TEAM = """
from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Membership, Role, Team, User
user, _ = User.objects.get_or_create(username="someone of {team}")
team = Team.objects.create(slug="{team}", name="{team}")
Membership.objects.create(team=team, user=user, role=Role.ADMIN)
print(create_token(user, team, name="test")[1])
"""


@dataclass
class Seen:
    """What polling saw of one job while it lasted."""

    reasons: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    expected_starts: set[str | None] = field(default_factory=set)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A hub whose own worker, and one beside it, have two CPU devices each."""
    folder = tmp_path_factory.mktemp("fleet")
    for parent in (folder, folder.parent):
        parent.chmod(0o711)
    environment = {key: value for key, value in os.environ.items() if key not in OWN}
    running = RunningHub(folder / "home", environment | {"FINETUNE_HUB_CPU_DEVICES": "2"})
    make_tiny_model(folder / "home" / "models" / "tiny")
    second: subprocess.Popen[bytes] | None = None
    try:
        running.start()
        with (folder / "worker.log").open("ab") as log:
            command = [*COMMAND, "worker", "--home", str(running.home), "--name", "annex", "--cpu-devices", "2"]
            second = subprocess.Popen([*command, "--labels", "quiet"], env=environment, stdout=log, stderr=log)
        with running.client() as owner:
            wait_until(lambda: len(owner.workers()) == 2, seconds=60, what="the second worker")
        yield running
    finally:
        if second is not None:
            second.send_signal(signal.SIGTERM)
            second.wait(60)
        running.stop()


def client_of_new_team(fleet: RunningHub, team: str, rows: Path) -> Hub:
    """A team with the base model `tiny` and the dataset `rows`."""
    client = Hub(fleet.state.url, fleet.manage("shell", "-v", "0", "-c", TOKEN_OF_NEW_TEAM.format(team=team)))
    ended = list(client.watch(client.import_base_model("tiny", "folder:tiny").job_id))[-1].job
    assert ended.state == "succeeded", ended
    client.push_dataset(rows, "rows")
    return client


def recipe(name: str, gpus: int = 1) -> dict[str, Any]:
    training = {"epochs": 20, "max_steps": 12, "micro_batch_size": 2, "gradient_accumulation_steps": 2}
    return {
        "base_model": "tiny",
        "dataset": {"name": "rows"},
        "adapter_name": name,
        "training": training | {"max_seq_len": 128},
        "runtime": {"dtype": "float32", "gpus": gpus},
    }


def test_eight_jobs_of_three_teams(fleet: RunningHub, tmp_path: Path) -> None:
    rows = make_chat_rows(tmp_path / "rows.jsonl", 64)
    submitted: dict[str, str] = {}
    with ExitStack() as stack:
        owner = stack.enter_context(fleet.client())
        clients = {team: stack.enter_context(client_of_new_team(fleet, team, rows)) for team in MAX_DEVICES}
        for team, limit in MAX_DEVICES.items():
            owner.set_quota(team, max_devices=limit, max_hours=None, weight=WEIGHTS[team])
        for worker in ("box", "annex"):
            owner.drain_worker(worker)
        for name in ("ants-1", "ants-2", "ants-3", "bees-1", "bees-2", "bees-3", "cats-1"):
            submitted[name] = clients[name[:4]].submit(recipe(name)).id
        submitted["cats-2"] = clients["cats"].submit(recipe("cats-2", gpus=2)).id
        wait_until(
            lambda: all("drained" in clients[name[:4]].job(job).waiting_reason for name, job in submitted.items()),
            seconds=60,
            what="a reason for each of eight jobs",
        )
        for worker in ("box", "annex"):
            owner.resume_worker(worker)
        seen = watch(clients, submitted)
        jobs = {name: clients[name[:4]].job(job) for name, job in submitted.items()}

    assert {job.state for job in jobs.values()} == {"succeeded"}
    attempts = {name: job.attempts for name, job in jobs.items()}
    assert {len(found) for found in attempts.values()} == {1}
    assigned = {name: found[0].assigned_at for name, found in attempts.items()}
    order = sorted(assigned, key=lambda name: assigned[name])
    # Four devices: one for the ants, whose quota it is; two for the bees, who weigh twice; one for the cats.
    assert set(order[:4]) == {"ants-1", "bees-1", "bees-2", "cats-1"}
    # Within a team, first come, first served.
    for team in MAX_DEVICES:
        mine = [name for name in order if name.startswith(team)]
        assert mine == sorted(mine)
    # The ants wait for their quota, and say so; cats-2 waits for two devices on one worker.
    assert seen["ants-3"].codes.count("team_devices") > 0
    assert any("team ants uses 1 of the 1 devices" in reason for reason in seen["ants-3"].reasons)
    assert any("2 devices on one worker" in reason for reason in seen["cats-2"].reasons)
    assert any(start for start in seen["cats-2"].expected_starts)
    [shared_run] = attempts["cats-2"]
    assert len(shared_run.devices) == 2
    assert_quotas_held(attempts)


def watch(clients: dict[str, Hub], submitted: dict[str, str]) -> dict[str, Seen]:
    """Look at all jobs until they have ended; each that waits must say why, but for the moments around a pass."""
    seen: dict[str, Seen] = defaultdict(Seen)
    unexplained: dict[str, int] = defaultdict(int)
    give_up = time.monotonic() + 540
    while time.monotonic() < give_up:
        jobs = {job.id: job for client in clients.values() for job in client.jobs(20)}
        for name, job_id in submitted.items():
            job = jobs[job_id]
            if job.state == "queued" and job.waiting_reason:
                unexplained[name] = 0
                seen[name].reasons.append(job.waiting_reason)
                seen[name].codes.append(job.waiting_code)
                seen[name].expected_starts.add(job.expected_start)
            elif job.state == "queued" and not clients[name[:4]].job(job_id).attempts:
                unexplained[name] += 1
                assert unexplained[name] < 10, f"{name} waits without a reason"
        if all(jobs[job_id].state in ENDED_STATES for job_id in submitted.values()):
            return seen
        time.sleep(0.5)
    pytest.fail("eight tiny jobs took nine minutes")


def assert_quotas_held(attempts: dict[str, list[Attempt]]) -> None:
    """Whenever something was assigned, no team had more devices than its quota, nor all together more than four."""
    spans = {name: (found[0].assigned_at, found[0].finished_at, found[0]) for name, found in attempts.items()}
    for moment, _, _ in spans.values():
        held: dict[str, int] = defaultdict(int)
        for name, (start, end, attempt) in spans.items():
            if start <= moment < end:
                held[name[:4]] += len(attempt.devices)
        assert sum(held.values()) <= 4
        for team, limit in MAX_DEVICES.items():
            assert limit is None or held[team] <= limit
