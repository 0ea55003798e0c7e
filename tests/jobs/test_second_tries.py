"""The class of a failure decides what follows: smaller, elsewhere, again, or not at all."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from django.conf import LazySettings
from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.fleet.models import Worker
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.kinds.training import submit_training
from finetune_hub.jobs.lifecycle import enqueue, fail_job, lock_job
from finetune_hub.jobs.models import Attempt, Job, JobState
from finetune_hub.jobs.planning import memory_needed
from finetune_hub.jobs.reconciler import OVERTIME, fail_what_never_starts, time_out_attempts
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.steering import cancel_job, retry_job
from finetune_hub.jobs.validation import validate_job
from finetune_hub.jobs.worker_port import Lease
from finetune_hub.scheduling.shrinking import smaller
from finetune_hub.spec.problem import Failed, FailureClass
from finetune_hub.spec.refusal import Refusal
from tests.factories import make_attempt, make_base_model, make_job, make_spec, make_team, make_user, make_worker
from tests.jobs.test_steering import checkpoint
from tests.tiny_models import make_tokenizer

pytestmark = pytest.mark.django_db

OUT_OF_MEMORY = Failed("out_of_memory", "The run does not fit in memory.", "Halve it.")
KILLED = Failed("infrastructure", "The trainer was killed by signal 7.", "Look at the machine.")


@pytest.fixture(autouse=True)
def _no_back_off(settings: LazySettings) -> None:
    settings.RETRY_DELAY = timedelta(0)


def job_with(**parts: Any) -> Job:
    return make_job(make_team(make_user()), spec=make_spec(**parts).model_dump(mode="json", exclude_none=True))


def claimed(job: Job, worker: Worker | None = None) -> Lease:
    attempt = make_attempt(job, worker)
    lease = worker_port.claim_attempt(attempt.pk, worker=attempt.worker)
    assert lease is not None
    return lease


def fail(job: Job, failed: Failed, worker: Worker | None = None) -> str:
    """One attempt fails. Returns the job's state."""
    worker_port.fail(claimed(job, worker), failed)
    job.refresh_from_db()
    return job.state


@pytest.mark.parametrize("failure_class", get_args(FailureClass))
def test_only_what_a_retry_can_mend_is_retried(failure_class: FailureClass) -> None:
    job = job_with()
    state = fail(job, Failed(failure_class, "Line 3 has no answer.", "Mend it."))
    assert state == ("queued" if failure_class in {"worker_lost", "infrastructure"} else "failed")
    if state == "failed":
        assert (job.failure_class, job.failure_message) == (failure_class, "Line 3 has no answer.")


# ---- out of memory


def test_out_of_memory_goes_on_smaller_where_the_spec_allows_it() -> None:
    job = job_with(
        training={"micro_batch_size": 4, "gradient_accumulation_steps": 3}, runtime={"on_out_of_memory": "shrink"}
    )
    seen = []
    while fail(job, OUT_OF_MEMORY) == JobState.VALIDATING:
        spec = job.training_spec()
        seen.append(
            (
                spec.training.micro_batch_size,
                spec.training.gradient_accumulation_steps,
                spec.runtime.activation_checkpointing,
            )
        )
    assert seen == [(2, 6, False), (1, 12, False), (1, 12, True)]
    assert (job.state, job.failure_class) == (JobState.FAILED, "out_of_memory")
    assert job.spec["training"]["micro_batch_size"] == 4  # What was submitted stays as it was.
    [said] = job.events.filter(message__contains="`micro_batch_size` 2, `gradient_accumulation_steps` 6")
    assert said.message.startswith("The next attempt needs less memory")


def test_out_of_memory_ends_after_a_few_attempts() -> None:
    job = job_with(training={"micro_batch_size": 512}, runtime={"on_out_of_memory": "shrink"})
    while fail(job, OUT_OF_MEMORY) == JobState.VALIDATING:
        pass
    assert job.attempts.count() == 5


def test_out_of_memory_is_placed_by_what_is_left_of_it(tmp_path: Path) -> None:
    """It asks for less than before, and for more than was planned as the plan has just proved too low."""
    make_tokenizer(tmp_path)
    team, small, large = make_team(make_user()), 2 * 10**9, 24 * 10**9
    base_model = make_base_model(team, folder=tmp_path)
    spec = make_spec(training={"micro_batch_size": 64}, runtime={"on_out_of_memory": "shrink"})
    job = make_job(team, base_model=base_model, spec=spec.model_dump(mode="json", exclude_none=True))
    worker = make_worker(device={"memory_bytes": small})
    make_worker(device={"memory_bytes": large})
    planned = memory_needed(team, spec)
    assert planned is not None
    assert planned < small
    Job.objects.filter(pk=job.pk).update(memory_bytes_needed=planned)
    assert fail(job, OUT_OF_MEMORY, worker) == JobState.VALIDATING
    validate_job(job.pk)
    job.refresh_from_db()
    left = memory_needed(team, job.training_spec())
    assert left is not None
    assert left < planned
    assert job.state == JobState.QUEUED
    assert job.memory_bytes_needed == round(left * small / planned)
    assert job.memory_bytes_needed < small, "where it failed it would fit now"


def test_a_smaller_spec_keeps_the_rows_of_a_step_and_ends() -> None:
    for size, accumulation in ((1, 1), (3, 2), (5, 1), (7, 9), (1024, 1), (2, 1024), (1024, 1024)):
        spec = make_spec(training={"micro_batch_size": size, "gradient_accumulation_steps": accumulation})
        for _ in range(20):
            changes = smaller(spec)
            if changes is None:
                break
            options = spec.training.model_dump()
            options |= {
                name.partition(".")[2]: value for name, value in changes.items() if name.startswith("training.")
            }
            runtime = {"activation_checkpointing": "runtime.activation_checkpointing" in changes}
            assert options["micro_batch_size"] < spec.training.micro_batch_size or runtime["activation_checkpointing"]
            assert options["micro_batch_size"] * options["gradient_accumulation_steps"] == size * accumulation
            spec = make_spec(training=options, runtime=runtime)
        assert changes is None


# ---- infrastructure


def test_a_device_that_failed_a_job_is_excluded_for_it() -> None:
    job, bad, good = job_with(), make_worker("bad"), make_worker("good")
    assert fail(job, KILLED, bad) == JobState.QUEUED
    assert job.excluded_devices == [bad.devices.get().pk]
    assert "will not run on A processor, 2 cores of bad again" in job.events.last().message
    assert schedule_pass() == 1
    [attempt] = job.attempts.active()
    assert attempt.worker == good
    lease = worker_port.claim_attempt(attempt.pk, worker=good)
    assert lease is not None
    worker_port.fail(lease, KILLED)
    assert schedule_pass() == 1  # None is left, so all are tried again.


def test_the_only_device_is_tried_again() -> None:
    job, worker = job_with(), make_worker()
    make_worker("gone", heartbeat_at=Now() - timedelta(days=1))
    assert fail(job, KILLED, worker) == JobState.QUEUED
    assert schedule_pass() == 1
    assert job.attempts.active().get().worker == worker


def test_a_checkpoint_between_failures_is_progress() -> None:
    job, worker = job_with(), make_worker()
    for step in range(1, 9):
        lease = claimed(job, worker)
        checkpoint(lease, step)
        worker_port.fail(lease, KILLED)
    job.refresh_from_db()
    assert (job.state, job.fruitless_attempts) == (JobState.QUEUED, 1)
    assert job.events.last().message.endswith("It will restart from the checkpoint of step 8.")


# ---- maximum duration


def ran(lease: Lease, duration: timedelta) -> None:
    Attempt.objects.filter(pk=lease.attempt_id).update(assigned_at=Now() - duration, started_at=Now() - duration)
    Job.objects.update(requested_at=Now() - timedelta(days=30))


def test_a_trainer_that_outlives_its_maximum_duration_is_stopped() -> None:
    job = job_with(runtime={"max_duration": "1h"})
    lease = claimed(job)
    ran(lease, timedelta(hours=1) + OVERTIME - timedelta(minutes=1))
    time_out_attempts()
    assert worker_port.renew_lease(lease) is False
    ran(lease, timedelta(hours=1) + OVERTIME + timedelta(minutes=1))
    for _ in range(2):
        time_out_attempts()
    assert worker_port.renew_lease(lease) is True
    worker_port.stop(lease, was_asked=True)
    job.refresh_from_db()
    assert (job.state, job.failure_class) == (JobState.FAILED, "timed_out")
    assert job.failure_message == "It exceeded its maximum duration of 1h and did not end by itself."
    assert job.events.filter(message__contains="asked to stop").count() == 1


def test_only_running_counts_and_all_attempts_do() -> None:
    job, worker = job_with(runtime={"max_duration": "2h"}), make_worker()
    for _ in range(2):
        lease = claimed(job, worker)
        ran(lease, timedelta(minutes=50))
        checkpoint(lease, lease.attempt_id)
        worker_port.fail(lease, KILLED)
    job.refresh_from_db()
    assert round(job.run_time().total_seconds() / 60) == 100
    lease = claimed(job, worker)
    assert round(job.run_time().total_seconds() / 60) == 100


def test_a_job_without_a_limit_runs_on() -> None:
    lease = claimed(job_with())
    ran(lease, timedelta(days=9))
    time_out_attempts()
    assert worker_port.renew_lease(lease) is False


# ---- after another job


def test_followers_that_a_worker_could_not_see_are_failed_afterwards() -> None:
    first = job_with()
    second = make_job(first.team, after=first)
    Job.objects.filter(pk=first.pk).update(state=JobState.FAILED, failure_class="diverged", finished_at=Now())
    fail_what_never_starts()
    fail_what_never_starts()
    second.refresh_from_db()
    assert (second.state, second.failure_class) == (JobState.FAILED, "dependency")
    assert second.events.count() == 1


def test_a_failed_job_takes_those_with_it_that_follow_it() -> None:
    first = job_with()
    second = make_job(first.team, after=first)
    third = make_job(first.team, after=second, state=JobState.PAUSED, desired_state="pause")
    assert list(Job.objects.in_queue_order()) == [first]
    fail_job(first, Failed("diverged", "It diverged.", "Lower it."))
    for job, before in ((second, first), (third, second)):
        job.refresh_from_db()
        assert (job.state, job.failure_class) == (JobState.FAILED, "dependency")
        assert job.failure_message == f"It was to start after tickets-tiny ({before.pk}), which failed."
    with pytest.raises(Refusal, match="Retry that one first"):
        retry_job(second.pk, first.created_by)


def test_a_job_starts_once_the_one_before_it_has_succeeded() -> None:
    first, worker = job_with(), make_worker()
    user = first.created_by
    second = submit_training(first.team, user, first.training_spec(), after=first.pk)
    with transaction.atomic():
        enqueue(lock_job(second.pk))
    second.refresh_from_db()
    assert second.waiting_reason == f"It starts once tickets-tiny ({first.pk}) has succeeded."
    worker_port.succeed(claimed(first, worker), {"steps": 1})
    second.refresh_from_db()
    assert second.waiting_reason == ""
    assert list(Job.objects.in_queue_order()) == [second]


def test_the_same_key_again_is_answered_though_the_job_before_has_failed() -> None:
    first = job_with()
    asked = {"after": first.pk, "idempotency_key": "once"}
    second = submit_training(first.team, first.created_by, first.training_spec(), **asked)
    fail_job(first, Failed("diverged", "It diverged.", "Lower it."))
    assert submit_training(first.team, first.created_by, first.training_spec(), **asked) == second
    with pytest.raises(Refusal, match="for a different spec") as refused:
        submit_training(first.team, first.created_by, make_spec(training={"epochs": 9}), **asked)
    assert refused.value.code == "idempotency_key_reused"


def test_nothing_is_to_follow_what_has_failed_or_is_elsewhere() -> None:
    first, theirs = job_with(), job_with()
    cancel_job(first.pk, first.created_by)
    for after, code in ((first.pk, "wrong_job_state"), (theirs.pk, "unknown_job"), ("ftjob-none", "unknown_job")):
        with pytest.raises(Refusal) as refused:
            submit_training(first.team, first.created_by, first.training_spec(), after=after)
        assert (refused.value.code, refused.value.field) == (code, "after")
    assert first.team.jobs.count() == 1
