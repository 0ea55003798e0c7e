"""Room on a worker's disk: asked for before a job starts, and a full one gets none."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.db.models.functions import Now

from finetune_hub.accounts.models import Role
from finetune_hub.fleet.actions import remove_worker
from finetune_hub.fleet.models import Worker
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.planning import shape_of
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.scheduling.disk import run_bytes
from finetune_hub.spec.refusal import Refusal
from tests.factories import make_base_model, make_job, make_team, make_user, make_worker
from workers import attempt_run as attempt_module
from workers.attempt_folder import AttemptFolder
from workers.attempt_run import AttemptThread
from workers.free_disk import NoRoom, free_bytes_at, require_room
from workers.kinds.registry import WORK

pytestmark = pytest.mark.django_db


@pytest.fixture
def job() -> Job:
    return make_job(make_team(make_user("alice"), role=Role.ADMIN))


def leave(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free_bytes))


def test_a_training_that_fits_to_the_byte_and_one_that_does_not(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = run_bytes(job.training_spec(), shape_of(job.base_model))
    leave(monkeypatch, needed)
    require_room(WORK["train"].bytes_needed(job), tmp_path)
    leave(monkeypatch, needed - 1)
    with pytest.raises(NoRoom, match=r"checkpoints of this job take up to 11 MB"):
        require_room(WORK["train"].bytes_needed(job), tmp_path)


def test_what_is_no_training_or_not_known_is_let_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(monkeypatch, 0)
    team = make_team(make_user())
    require_room(WORK["evaluate"].bytes_needed(make_job(team, kind="evaluate")), tmp_path)
    unknown = make_base_model(team, "unknown")
    type(unknown).objects.filter(pk=unknown.pk).update(facts={})
    unknown.refresh_from_db()
    require_room(WORK["train"].bytes_needed(make_job(team, base_model=unknown)), tmp_path)


def test_a_full_disk_ends_the_attempt_before_it_starts(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert schedule_pass() == 0
    worker = make_worker()
    assert schedule_pass() == 1
    [attempt_id] = worker_port.assigned_attempts(worker)
    lease = worker_port.claim_attempt(attempt_id, worker=worker)
    assert lease is not None
    leave(monkeypatch, 1000)
    monkeypatch.setattr(WORK["train"], "prepare", lambda *arguments: pytest.fail("It started."))
    monkeypatch.setattr(attempt_module.connection, "close", lambda: None)
    AttemptThread(AttemptFolder.create(tmp_path, lease, before=0.0)).run()
    ended = job.attempts.get()
    assert (ended.state, ended.failure_class) == ("failed", "infrastructure")
    assert ended.failure_message.startswith("The worker's disk is too full: ")


def test_a_worker_with_a_full_disk_says_so_and_gets_no_job(job: Job) -> None:
    worker = make_worker()
    worker_port.beat(worker, free_bytes=2**20)
    word, sentence = Worker.objects.with_health().get(pk=worker.pk).health()
    assert (word, "1,048,576 bytes free" in sentence) == ("unhealthy", True)
    assert schedule_pass() == 0
    worker_port.beat(worker, free_bytes=2**40)
    assert schedule_pass() == 1


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert free_bytes_at(tmp_path / "work" / "gpu-1") > 0


# ---- removing


def gone(**columns: Any) -> Worker:
    return make_worker("gone", heartbeat_at=Now() - timedelta(hours=1), **columns)


def test_a_worker_that_is_gone_is_removed_and_comes_back_when_it_joins() -> None:
    alice, worker = make_user("alice", is_staff=True), gone()
    for _ in range(2):
        remove_worker(worker, actor=alice)
    assert not Worker.objects.in_fleet().exists()
    worker_port.register_worker("gone", hostname="host", version="0.1.0", devices=[])
    assert Worker.objects.in_fleet().get() == worker


def test_a_worker_that_is_there_is_not_removed() -> None:
    worker = make_worker()
    with pytest.raises(Refusal, match="is healthy, so it cannot be removed"):
        remove_worker(worker, actor=make_user(is_staff=True))
