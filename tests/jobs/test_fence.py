"""Nothing twice: duplicate pokes, stale workers and two schedulers change nothing. Against the real Postgres."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Attempt, AttemptState, DeviceUse, Job, JobState
from finetune_hub.jobs.reconciler import expire_attempts
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.worker_port import Lease, LeaseLost
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.events import Log, Step
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.problem import Failed
from tests.factories import make_attempt, make_job, make_team, make_user, make_worker
from workers.control import validate

pytestmark = pytest.mark.django_db

STEP = Step(
    at=0,
    step=1,
    epoch=0.1,
    loss=2.0,
    learning_rate=1e-4,
    grad_norm=1.0,
    tokens=100,
    supervised_tokens=10,
    seconds=0.5,
    peak_memory_bytes=1,
)
FILES = [FileEntry(path="adapter_model.safetensors", size_bytes=1, sha256="0" * 64)]
RESULT = {"steps": 3}


@pytest.fixture
def job() -> Job:
    return make_job(make_team(make_user()))


def claimed(job: Job) -> Lease:
    attempt = make_attempt(job)
    lease = worker_port.claim_attempt(attempt.pk, worker=attempt.worker)
    assert lease is not None
    return lease


def end_lease(lease: Lease) -> None:
    Attempt.objects.filter(pk=lease.attempt_id).update(lease_expires_at=Now() - timedelta(seconds=1))


def publish(lease: Lease) -> AdapterVersion:
    return worker_port.publish_adapter(
        lease,
        artifact_prefix=f"jobs/{lease.attempt_id}",
        files=FILES,
        result=RESULT,
        verification={},
        model_card="# It",
    )


WRITES: dict[str, Callable[[Lease], Any]] = {
    "renew": worker_port.renew_lease,
    "events": lambda lease: worker_port.record_events(lease, [STEP], start=0, end=10),
    "log": lambda lease: worker_port.record_log_tail(lease, "hello"),
    "checkpoint": lambda lease: worker_port.record_checkpoint(lease, step=1, artifact_prefix="x", files=FILES),
    "resume": lambda lease: worker_port.record_resume(lease, 1),
    "publish": publish,
    "base model": lambda lease: worker_port.publish_base_model(lease, artifact_prefix="x", files=FILES, result={}),
    "succeed": lambda lease: worker_port.succeed(lease, RESULT),
    "fail": lambda lease: worker_port.fail(lease, Failed("internal", "It broke.", "Fix it.")),
    "stop": lambda lease: worker_port.stop(lease, was_asked=True),
}


def everything(job: Job) -> tuple[Any, ...]:
    """All that a worker can change about a job."""
    return (
        Job.objects.filter(pk=job.pk).values().get(),
        list(job.attempts.values()),
        list(job.events.values()),
        list(job.checkpoints.values()),
        list(job.publications.values()),
        AdapterVersion.objects.count(),
        Job.objects.get(pk=job.pk).attempts.get().metrics.count(),
    )


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_stale_write_changes_nothing(job: Job, write: Callable[[Lease], Any]) -> None:
    lease = claimed(job)
    end_lease(lease)
    before = everything(job)
    with pytest.raises(LeaseLost):
        write(lease)
    assert everything(job) == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_write_with_another_token_changes_nothing(job: Job, write: Callable[[Lease], Any]) -> None:
    lease = claimed(job)
    before = everything(job)
    with pytest.raises(LeaseLost):
        write(Lease(lease.attempt_id, uuid4()))
    assert everything(job) == before


def test_second_claim_gets_nothing(job: Job) -> None:
    attempt = make_attempt(job)
    assert worker_port.claim_attempt(attempt.pk, worker=attempt.worker)
    assert worker_port.claim_attempt(attempt.pk, worker=attempt.worker) is None


def test_another_workers_claim_gets_nothing(job: Job) -> None:
    attempt = make_attempt(job)
    assert worker_port.claim_attempt(attempt.pk, worker=make_worker()) is None


def test_late_claim_gets_nothing(job: Job) -> None:
    attempt = make_attempt(job, lease_expires_at=Now() - timedelta(seconds=1))
    assert worker_port.claim_attempt(attempt.pk, worker=attempt.worker) is None


def test_events_of_the_same_offset_are_recorded_once(job: Job) -> None:
    lease = claimed(job)
    for _ in range(2):
        worker_port.record_events(lease, [STEP, Log(at=0, message="hello")], start=0, end=10)
    attempt = Attempt.objects.get(pk=lease.attempt_id)
    assert attempt.events_offset == 10
    assert attempt.metrics.count() == 1
    assert attempt.events.filter(message="hello").count() == 1


def test_events_are_numbered_without_gaps(job: Job) -> None:
    lease = claimed(job)
    worker_port.record_events(lease, [Log(at=0, message=str(n)) for n in range(5)], start=0, end=10)
    numbers = list(job.events.values_list("number", flat=True))
    assert numbers == list(range(1, len(numbers) + 1))
    assert Job.objects.get(pk=job.pk).event_count == len(numbers)


def test_publishing_ends_the_job_once(job: Job) -> None:
    lease = claimed(job)
    version = publish(lease)
    with pytest.raises(LeaseLost):
        publish(lease)
    job.refresh_from_db()
    assert job.state == JobState.SUCCEEDED
    assert [publication.adapter_version for publication in job.publications.all()] == [version]
    assert not DeviceUse.objects.filter(released_at=None).exists()
    assert {edge.dataset_version or edge.base_model for edge in version.lineage.all()} == {
        job.base_model,
        job.dataset_versions.get(),
    }


def test_database_refuses_a_second_active_attempt(job: Job) -> None:
    make_attempt(job)
    with pytest.raises(IntegrityError, match="job_has_one_active_attempt"), transaction.atomic():
        make_attempt(job)


def test_database_refuses_to_lend_a_device_twice(job: Job) -> None:
    attempt = make_attempt(job)
    other = make_attempt(make_job(job.team), make_worker(devices=0))
    with pytest.raises(IntegrityError, match="device_lent_once"), transaction.atomic():
        DeviceUse.objects.create(attempt=other, device=attempt.worker.devices.get())


def test_database_refuses_to_change_a_published_version(job: Job) -> None:
    version = publish(claimed(job))
    with pytest.raises(IntegrityError, match="immutable"), transaction.atomic():
        AdapterVersion.objects.filter(pk=version.pk).update(step=4)


def test_expired_attempt_is_lost_and_its_job_queued_again(job: Job) -> None:
    lease = claimed(job)
    worker_port.record_checkpoint(lease, step=2, artifact_prefix="x", files=FILES)
    end_lease(lease)
    assert expire_attempts() == 1
    assert expire_attempts() == 0
    job.refresh_from_db()
    assert job.state == JobState.QUEUED
    assert job.attempts.get().state == AttemptState.LOST
    assert "step 2" in job.events.last().message
    assert not DeviceUse.objects.filter(released_at=None).exists()


def test_a_job_that_loses_every_attempt_fails_in_the_end(job: Job) -> None:
    for _ in range(20):
        job.refresh_from_db()
        if job.has_ended:
            break
        end_lease(claimed(job))
        expire_attempts()
    assert job.state == JobState.FAILED
    assert job.failure_class == "worker_lost"
    assert job.attempts.count() == 5


def test_duplicate_poke_validates_once(job: Job) -> None:
    Job.objects.filter(pk=job.pk).update(state=JobState.VALIDATING, kind="evaluate")
    validate(job.pk)
    before = everything_but_attempts(job)
    validate(job.pk)
    assert everything_but_attempts(job) == before


def everything_but_attempts(job: Job) -> tuple[Any, ...]:
    return Job.objects.filter(pk=job.pk).values().get(), list(job.events.values())


@pytest.mark.django_db(transaction=True)
def test_two_schedulers_at_once_assign_every_job_once() -> None:
    team = make_team(make_user())
    jobs = [make_job(team) for _ in range(6)]
    workers = [make_worker(devices=2), make_worker(devices=2)]
    barrier = threading.Barrier(4)
    made: list[int] = []

    def schedule() -> None:
        barrier.wait()
        try:
            made.append(schedule_pass())
        finally:
            connection.close()

    threads = [threading.Thread(target=schedule) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == 4
    held = DeviceUse.objects.filter(released_at=None)
    assert held.count() == held.values("device").distinct().count() == 4
    assert set(Attempt.objects.values_list("job", flat=True)) == {job.pk for job in jobs[:4]}
    assert {worker.attempts.count() for worker in workers} == {2}
    waiting = Job.objects.get(pk=jobs[4].pk)
    assert waiting.waiting_reason.startswith("Next in the queue: all 4 devices are busy.")


@pytest.mark.django_db(transaction=True)
def test_two_claims_at_once_give_one_lease() -> None:
    attempt = make_attempt(make_job(make_team(make_user())))
    barrier = threading.Barrier(4)
    leases: list[Lease | None] = []

    def claim() -> None:
        barrier.wait()
        try:
            leases.append(worker_port.claim_attempt(attempt.pk, worker=attempt.worker))
        finally:
            connection.close()

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(lease is not None for lease in leases) == 1


def test_worker_without_canary_is_unhealthy_and_gets_no_job(job: Job) -> None:
    worker = make_worker(canary_at=Now() - timedelta(seconds=61))
    assert schedule_pass() == 0
    job.refresh_from_db()
    assert job.waiting_reason.startswith("No worker can take jobs")
    [shown] = type(worker).objects.with_health()
    assert shown.health()[0] == "unhealthy"
    worker_port.consume_canary(worker.name)
    assert schedule_pass() == 1


def test_drained_worker_gets_no_job_and_the_job_says_why(job: Job) -> None:
    make_worker(drain_requested=True)
    assert schedule_pass() == 0
    job.refresh_from_db()
    assert job.waiting_reason.startswith("Every worker is drained")
