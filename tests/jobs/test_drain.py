"""Drain and resume: running jobs go on, no new one comes, and a placement that races with a drain loses nothing."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from finetune_hub.accounts.models import AuditEvent, Role, User
from finetune_hub.fleet.actions import drain_worker, resume_worker
from finetune_hub.fleet.models import Worker
from finetune_hub.jobs import scheduler, worker_port
from finetune_hub.jobs.models import Attempt, AttemptState, Job
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.scheduling.placement.placing import place_jobs
from tests.factories import make_attempt, make_job, make_team, make_user, make_worker


@pytest.fixture
def admin(db: None) -> User:
    return make_user("alice", is_staff=True)


def health_of(worker: Worker) -> str:
    return Worker.objects.with_health().get(pk=worker.pk).health()[0]


def test_draining_while_attempts_run_then_drained_then_healthy(admin: User) -> None:
    team = make_team(admin, role=Role.ADMIN)
    worker, other = make_worker(), make_worker()
    make_attempt(make_job(team), worker, state=AttemptState.LOST, finished_at=timezone.now())  # Long over.
    make_attempt(make_job(team), other)  # Another worker's.
    attempt = make_attempt(make_job(team), worker)
    drain_worker(worker, actor=admin)
    assert health_of(worker) == "draining"
    Attempt.objects.filter(pk=attempt.pk).update(state=AttemptState.LOST, finished_at=timezone.now())
    assert health_of(worker) == "drained"
    resume_worker(worker, actor=admin)
    assert (health_of(worker), health_of(other)) == ("healthy", "healthy")


def test_twice_is_once(admin: User) -> None:
    worker = make_worker("gpu-1")
    for verb in (drain_worker, drain_worker, resume_worker, resume_worker):
        verb(worker, actor=admin)
    assert [str(event) for event in AuditEvent.objects.order_by("pk")] == ["alice drained gpu-1", "alice resumed gpu-1"]


@pytest.mark.django_db(transaction=True)
def test_an_assigned_attempt_is_claimed_and_goes_on(admin: User) -> None:
    worker = make_worker()
    job = make_job(make_team(admin))
    assert schedule_pass() == 1
    drain_worker(worker, actor=admin)
    assert health_of(worker) == "draining"
    [attempt_id] = worker_port.assigned_attempts(worker)
    lease = worker_port.claim_attempt(attempt_id, worker=worker)
    assert lease is not None
    worker_port.renew_lease(lease)
    job.refresh_from_db()
    assert job.state == "running"


@pytest.mark.django_db(transaction=True)
def test_a_drain_waits_for_the_pass_under_way_and_nothing_comes_after_it(
    admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = make_worker()
    jobs = [make_job(make_team(admin)) for _ in range(2)]
    is_planning, may_go_on = threading.Event(), threading.Event()
    placed_when_drained: list[int] = []

    def place_slowly(*arguments: Any) -> Any:
        is_planning.set()
        assert may_go_on.wait(20)
        return place_jobs(*arguments)

    def schedule() -> None:
        try:
            schedule_pass()
        finally:
            connection.close()

    def drain() -> None:
        try:
            drain_worker(worker, actor=admin)
            placed_when_drained.append(Attempt.objects.count())
        finally:
            connection.close()

    monkeypatch.setattr(scheduler, "place_jobs", place_slowly)
    threads = [threading.Thread(target=schedule), threading.Thread(target=drain)]
    threads[0].start()
    assert is_planning.wait(20)
    threads[1].start()
    threads[1].join(0.3)
    assert threads[1].is_alive()  # It waits.
    may_go_on.set()
    for thread in threads:
        thread.join()
    assert placed_when_drained == [1]
    assert schedule_pass() == 0
    attempt = Attempt.objects.get()
    assert worker_port.claim_attempt(attempt.pk, worker=worker) is not None
    [waiting] = Job.objects.filter(pk__in=[job.pk for job in jobs], state="queued")
    assert (
        waiting.waiting_reason
        == "Every worker is drained. No new job starts until an admin resumes one on the Workers page."
    )
    resume_worker(worker, actor=admin)
    assert health_of(worker) == "healthy"
