"""Two processes that lock several rows never wait for each other in a circle, nor decide by what has changed since."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction
from django.db.models.functions import Now

from finetune_hub.jobs import scheduler
from finetune_hub.jobs.models import Attempt, Job, JobState
from finetune_hub.jobs.reconciler import fail_what_never_starts
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.steering import retry_job
from finetune_hub.jobs.worker_port import DeviceReading, record_readings
from tests.factories import make_job, make_team, make_user, make_worker

pytestmark = pytest.mark.django_db(transaction=True)

MOMENT = 0.3  # Seconds in which another process comes as far as it can.


def elsewhere(act: Callable[[], None]) -> threading.Thread:
    """Another process that does it, and has come as far as it can."""

    def run() -> None:
        try:
            act()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(MOMENT)
    return thread


def test_a_pass_and_the_readings_of_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass lends the second device first; the worker writes the first one's reading first."""
    worker = make_worker(devices=2)
    first, second = worker.devices.order_by("pk")
    team = make_team(make_user())
    make_job(team, excluded_devices=[first.pk])
    make_job(team)
    readings = [DeviceReading(kind="cpu", index=device.index, utilisation=0.5) for device in (first, second)]
    assign, threads = scheduler.assign, []

    def assign_slowly(assignment: Any) -> bool:
        if Attempt.objects.exists():  # The first job has its device by now.
            threads.append(elsewhere(lambda: record_readings(worker, readings)))
        return assign(assignment)

    monkeypatch.setattr(scheduler, "assign", assign_slowly)
    assert schedule_pass() == 2
    [thread] = threads
    thread.join(20)
    assert [device.samples.count() for device in (first, second)] == [1, 1]


def test_a_job_that_is_retried_meanwhile_keeps_its_followers() -> None:
    """A worker's own role has failed the first job and could not see the second."""
    team = make_team(make_user())
    first = make_job(team)
    second = make_job(team, after=first)
    Job.objects.filter(pk=first.pk).update(state=JobState.FAILED, failure_class="diverged", finished_at=Now())
    with transaction.atomic():
        retry_job(first.pk, first.created_by)
        reconciler = elsewhere(fail_what_never_starts)
        assert reconciler.is_alive(), "it waits for the retry"
    reconciler.join(20)
    second.refresh_from_db()
    assert second.state == JobState.QUEUED
