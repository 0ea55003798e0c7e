"""A worker on another host trains over S3 with an invitation alone; cut off, it is silent before anybody takes over."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from finetune_hub.artifacts.manifest import verify_files
from finetune_hub.cli.client import Hub
from finetune_hub.spec.files import FileEntry
from tests.hosts.conftest import HERE, LEASE_SECONDS, Hosts
from tests.integration.conftest import wait_until
from tests.integration.test_kills import is_running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def submit(client: Hub, *, steps: int) -> str:
    job = client.submit(
        {
            "base_model": "tiny",
            "dataset": {"name": "rows"},
            "adapter_name": "tickets",
            "training": {
                "epochs": 100,
                "max_steps": steps,
                "micro_batch_size": 1,
                "max_seq_len": 128,
                "checkpoint_every_steps": 10,
            },
            "runtime": {"dtype": "float32"},
        }
    )
    return str(job.id)


def attempts(hosts: Hosts, job_id: str) -> list[tuple[Any, ...]]:
    query = """
        SELECT number, fleet_worker.name, assigned_at FROM jobs_attempt JOIN fleet_worker ON fleet_worker.id = worker_id
        WHERE job_id = %s ORDER BY number
    """
    with psycopg.connect(hosts.hub.environment["DATABASE_URL"]) as database:
        return database.execute(query, [job_id]).fetchall()


def test_a_training_over_s3(hosts: Hosts, tmp_path: Path) -> None:
    with hosts.hub.client() as client:
        job = list(client.watch(submit(client, steps=20)))[-1].job
        assert job.state == "succeeded", job
        folder = client.pull("tickets", output=tmp_path / "pulled")
        adapter = client.adapter("tickets")
    assert [worker for _, worker, _ in attempts(hosts, job.id)] == ["far"]
    verify_files(folder, [FileEntry.model_validate(file.model_dump()) for file in adapter.files])

    path = f"/api/adapters/{adapter.adapter_id}/versions/1/files/adapter_config.json"
    answer = httpx.get(hosts.hub.state.url + path, headers={"Authorization": f"Bearer {hosts.hub.new_token()}"})
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith(f"http://{HERE}:9000/hub/artifacts/jobs/")


def test_a_worker_that_is_cut_off_is_silent_before_another_starts(hosts: Hosts) -> None:
    with hosts.hub.client() as client:
        job_id = submit(client, steps=6000)
        wait_until(
            lambda: any(event.message == "Checkpoint at step 10." for event in client.events(job_id)),
            seconds=60,
            what="the first checkpoint",
        )
        client.resume_worker("box")
        [file] = hosts.worker_home.glob("work/far/*/supervisor.json")
        supervisor = json.loads(file.read_text())["pid"]
        trainer, *_ = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()

        hosts.cut()
        cut_at = time.monotonic()
        while is_running(int(trainer)):
            assert time.monotonic() - cut_at < LEASE_SECONDS + 5
            time.sleep(0.02)
        dead_at = datetime.now(UTC)

        try:
            wait_until(lambda: len(attempts(hosts, job_id)) == 2, seconds=90, what="the second attempt")
            [_, (_, worker, assigned_at)] = attempts(hosts, job_id)
            assert worker == "box"
            assert dead_at < assigned_at
            wait_until(
                lambda: any("Resuming from the checkpoint" in event.message for event in client.events(job_id)),
                seconds=60,
                what="the resuming",
            )
        finally:
            hosts.mend()
            client.cancel(job_id)
        wait_until(lambda: client.job(job_id).state == "cancelled", seconds=90, what="the end of the job")
