"""What is kept of a failure: its class, message and remedy, of an attempt as of a job, told once in the history."""

from __future__ import annotations

from importlib import import_module

import pytest
from django.db import connection

from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Attempt, AttemptState, DesiredState, Job, JobState
from finetune_hub.spec.events import Failure, engine_event
from finetune_hub.spec.problem import Failed
from tests.factories import make_attempt, make_job, make_team, make_user
from tests.jobs.test_second_tries import claimed

KILLED = Failed("infrastructure", "The trainer was killed by signal 7.", "Look at the machine.")
OLD_LINE = '{"at": 1.5, "type": "failure", "failure_class": "diverged", "message": "It is nan.", "remedy": "Lower it."}'


@pytest.fixture
def job(db: None) -> Job:
    return make_job(make_team(make_user()))


def told_of(job: Job) -> list[str]:
    """What the history says of the failure."""
    return [event.message for event in job.events.all() if KILLED.message in event.message]


def test_a_line_of_an_older_engine_is_read() -> None:
    event = engine_event.validate_json(OLD_LINE)
    assert isinstance(event, Failure)
    assert event.failed == Failed("diverged", "It is nan.", "Lower it.")
    assert Failure.of(event.failed).model_copy(update={"at": 1.5}) == event


def test_an_attempt_that_is_followed_by_another_keeps_its_remedy(job: Job) -> None:
    lease = claimed(job)
    worker_port.record_events(lease, [Failure.of(KILLED)], start=0, end=10)
    worker_port.fail(lease, KILLED)
    job.refresh_from_db()
    assert (job.state, job.failure, job.attempts.get().failure) == (JobState.QUEUED, None, KILLED)
    assert told_of(job) == [f"Attempt 1 ended: {KILLED.message}"]


def test_what_goes_wrong_while_a_trainer_stops_is_told(job: Job) -> None:
    lease = claimed(job)
    Job.objects.filter(pk=job.pk).update(desired_state=DesiredState.PAUSE)
    worker_port.record_events(lease, [Failure.of(KILLED)], start=0, end=10)
    worker_port.stop(lease, was_asked=True, failed=KILLED)
    job.refresh_from_db()
    assert (job.state, job.attempts.get().state) == (JobState.PAUSED, AttemptState.PAUSED)
    assert told_of(job) == [f"While it stopped: {KILLED}"]


def test_older_attempts_take_the_remedy_from_their_job(job: Job) -> None:
    last = {"state": AttemptState.FAILED, "finished_at": job.created_at, "failure_class": "infrastructure"}
    make_attempt(job, failure_message="Another thing.", **last)
    make_attempt(job, failure_message=KILLED.message, **last)
    Job.objects.filter(pk=job.pk).update(**Job.failure_columns(KILLED))
    with connection.cursor() as cursor:
        cursor.execute(import_module("finetune_hub.jobs.migrations.0012_remedies_of_attempts").TAKE_FROM_JOB)
    assert list(job.attempts.order_by("number").values_list("failure_remedy", flat=True)) == ["", KILLED.remedy]


def test_a_scheduler_one_release_older_knows_no_remedy(job: Job) -> None:
    make_attempt(job, state=AttemptState.LOST, finished_at=job.created_at)
    unknown = {"id", "number", "failure_remedy"}
    names = ", ".join(field.column for field in Attempt._meta.concrete_fields if field.column not in unknown)
    with connection.cursor() as cursor:
        cursor.execute(f"INSERT INTO jobs_attempt (number, {names}) SELECT 2, {names} FROM jobs_attempt")
    assert [attempt.failure_remedy for attempt in job.attempts.all()] == ["", ""]
