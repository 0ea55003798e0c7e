"""The scheduler against the real Postgres: wishes, several devices, sharing, quotas and use, reasons of waits."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, transaction
from django.db.models.functions import Now
from django.utils import timezone

from finetune_hub.accounts.models import AuditEvent, Team
from finetune_hub.catalog.models import BaseModel
from finetune_hub.fleet.actions import set_quota, share_device
from finetune_hub.fleet.models import Device, TeamQuota
from finetune_hub.jobs import scheduler
from finetune_hub.jobs.expectations import seconds_left
from finetune_hub.jobs.kinds.training import STARTUP_SECONDS, submit_training
from finetune_hub.jobs.lifecycle import end_attempt
from finetune_hub.jobs.models import Attempt, AttemptState, DeviceUse, Job
from finetune_hub.jobs.reconciler import reconcile_pass
from finetune_hub.jobs.scheduler import month_after, schedule_pass
from finetune_hub.jobs.team_use import uses_of_teams
from finetune_hub.jobs.worker_port import beat, register_worker
from finetune_hub.spec.refusal import Refusal
from tests.factories import (
    first_member,
    make_attempt,
    make_base_model,
    make_job,
    make_spec,
    make_team,
    make_user,
    make_worker,
)
from workers.inventory import cpu_devices

pytestmark = pytest.mark.django_db


@pytest.fixture
def team() -> Team:
    return make_team(make_user())


def job_with(team: Team, **columns: Any) -> Job:
    """A waiting job with these values of `runtime`; other columns as named."""
    runtime = columns.pop("runtime", {})
    spec = make_spec(runtime=runtime).model_dump(mode="json", exclude_none=True)
    return make_job(team, spec=spec, **columns)


def test_the_worker_that_has_the_base_model_is_preferred(team: Team) -> None:
    make_worker()
    holder, _ = make_worker(), make_worker()
    job = make_job(team)
    beat(holder, cached_revisions=["f" * 64, job.over.revision])
    other = make_job(team, base_model=make_base_model(team, "other"))
    BaseModel.objects.filter(pk=other.base_model_id).update(revision="0" * 64)
    assert schedule_pass() == 2
    assert job.attempts.get().worker == holder


def test_the_worker_that_was_lost_is_the_last_choice(team: Team) -> None:
    lost, other = make_worker(), make_worker()
    job = make_job(team)
    beat(lost, cached_revisions=[job.over.revision])
    schedule_pass()
    Attempt.objects.update(lease_expires_at=Now() - timedelta(seconds=1))
    reconcile_pass()
    assert [attempt.worker for attempt in job.attempts.order_by("number")] == [lost, other]


def make_import(team: Team, kind: str) -> Job:
    base_model = None if kind == "dataset" else make_base_model(team, f"model-{team.jobs.count()}")
    spec = {"source": "hf:owner/name", "name": "tickets"}
    return Job.objects.create(
        team=team, created_by=first_member(team), kind=kind, state="queued", base_model=base_model, spec=spec
    )


def reason_of(job: Job) -> str:
    job.refresh_from_db()
    return job.waiting_reason


def test_several_devices_of_one_worker(team: Team) -> None:
    make_worker(devices=1)
    large = make_worker(devices=2)
    job = job_with(team, runtime={"gpus": 2})
    assert schedule_pass() == 1
    attempt = job.attempts.get()
    assert (attempt.worker, attempt.devices.count()) == (large, 2)


def test_wishes_and_labels_choose_the_worker(team: Team) -> None:
    make_worker()
    quiet = make_worker(labels=["quiet", "eu"])
    labelled = job_with(team, runtime={"labels": ["quiet"]})
    impossible = job_with(team, runtime={"device": "h100"})
    assert schedule_pass() == 1
    assert labelled.attempts.get().worker == quiet
    assert reason_of(impossible).startswith("No device matches `runtime.device: h100`")
    assert (impossible.waiting_code, impossible.expected_start) == ("no_device", None)


def test_more_devices_than_any_worker_has_are_refused_at_submit(team: Team) -> None:
    make_job(team)
    submit_training(team, first_member(team), make_spec(runtime={"gpus": 64}))  # No worker yet: it may come.
    make_worker(devices=2)
    with pytest.raises(Refusal, match="the largest worker has 2") as refused:
        submit_training(team, first_member(team), make_spec(runtime={"gpus": 3}))
    assert refused.value.code == "too_many_gpus"
    submit_training(team, first_member(team), make_spec(runtime={"gpus": 2}))


def test_the_database_lends_a_shared_device_only_as_far_as_its_memory_goes(team: Team) -> None:
    worker = make_worker(device={"memory_bytes": 100, "is_shared": True})
    [device] = worker.devices.all()
    attempts = [make_attempt(make_job(team), make_worker(devices=0)) for _ in range(4)]
    first, second, third, whole = attempts
    DeviceUse.objects.create(attempt=first, device=device, memory_bytes=60)
    for attempt, memory_bytes in [(second, 50), (whole, None)]:
        with pytest.raises(IntegrityError, match="device_lent_once"), transaction.atomic():
            DeviceUse.objects.create(attempt=attempt, device=device, memory_bytes=memory_bytes)
    held = DeviceUse.objects.create(attempt=second, device=device, memory_bytes=40)
    DeviceUse.objects.filter(pk=held.pk).update(released_at=Now())
    DeviceUse.objects.create(attempt=third, device=device, memory_bytes=40)
    with pytest.raises(IntegrityError, match="device_lent_once"), transaction.atomic():
        DeviceUse.objects.filter(pk=held.pk).update(released_at=None)
    Device.objects.update(is_shared=False)
    DeviceUse.objects.filter(attempt=third).update(released_at=Now())
    with pytest.raises(IntegrityError, match="device_lent_once"), transaction.atomic():
        DeviceUse.objects.create(attempt=whole, device=device, memory_bytes=1)


def test_sharing_and_quotas_are_recorded_once(team: Team) -> None:
    admin = make_user("alice", is_staff=True)
    device = make_worker("gpu-1").devices.get()
    for _ in range(2):
        share_device(device, True, actor=admin)
        set_quota(team, max_devices=2, max_hours=None, weight=1.0, actor=admin)
    share_device(device, False, actor=admin)
    assert [str(event) for event in AuditEvent.objects.order_by("pk")] == [
        "alice let small jobs share A processor, 2 cores of gpu-1",
        "alice changed the quota to 2 devices at a time, any number of hours per month, weight 1",
        "alice stopped jobs from sharing A processor, 2 cores of gpu-1",
    ]


def test_a_job_of_higher_priority_takes_the_device_of_a_lower_one(team: Team) -> None:
    worker = make_worker()
    low = make_job(team, state="running", expected_seconds=9000.0)
    running = make_attempt(low, worker, state=AttemptState.RUNNING, lease_token=uuid4(), started_at=timezone.now())
    urgent = make_job(team, priority=2)
    assert schedule_pass() == 0
    running.refresh_from_db()
    assert running.stop_wish == "preempt"
    assert "A job of higher priority needs its devices." in low.events.get().message
    assert reason_of(urgent).startswith("Next in the queue: the only device is busy. It is expected to start")
    schedule_pass()
    assert low.events.count() == 1  # It is asked once.


def test_a_job_preempted_three_times_goes_on_to_its_end(team: Team) -> None:
    worker = make_worker()
    low, now = make_job(team, state="running", expected_seconds=9000.0), timezone.now()
    for _ in range(3):
        make_attempt(low, worker, state=AttemptState.PREEMPTED, finished_at=now)
    running = make_attempt(low, worker, state=AttemptState.RUNNING, lease_token=uuid4(), started_at=now)
    make_job(team, priority=2)
    schedule_pass()
    running.refresh_from_db()
    assert not running.stop_wish


def test_small_jobs_share_a_device_by_the_memory_that_they_need(team: Team) -> None:
    worker = make_worker(device={"memory_bytes": 100, "is_shared": True})
    small = [make_job(team, memory_bytes_needed=40) for _ in range(3)]
    assert schedule_pass() == 2
    uses = DeviceUse.objects.filter(device__worker=worker, released_at=None)
    assert [use.memory_bytes for use in uses] == [40, 40]
    assert "needs a device with 40 bytes" in reason_of(small[2])


def test_no_more_jobs_share_a_cpu_than_it_has_cores(team: Team) -> None:
    """Once 31 trainings ran on two cores, since each needed little memory."""
    worker = register_worker("cpu-1", hostname="h", version="0.1.0", devices=cpu_devices(1))
    worker.devices.update(is_shared=True)
    cores = os.cpu_count() or 1
    for _ in range(cores + 2):
        make_job(team, memory_bytes_needed=1)
    assert schedule_pass() == cores
    assert schedule_pass() == 0
    Device.objects.update(cores=None)  # Unknown.
    assert schedule_pass() == 0


def test_devices_that_failed_a_job_are_avoided(team: Team) -> None:
    worker = make_worker(devices=2)
    bad, good = worker.devices.all()
    job = make_job(team, excluded_devices=[bad.pk])
    assert schedule_pass() == 1
    assert job.attempts.get().devices.get() == good


@pytest.mark.parametrize("kind", ["import", "dataset"])
def test_an_import_holds_no_gpu(team: Team, kind: str) -> None:
    """It downloads beside the GPUs, one at a time on a worker, and a training gets the GPU meanwhile."""
    worker = make_worker(device={"kind": "cuda", "name": "NVIDIA L4"})
    imports = [make_import(team, kind) for _ in range(2)]
    training = make_job(team)
    assert schedule_pass() == 2
    assert training.attempts.get().devices.count() == 1
    first = imports[0].attempts.get()
    assert (first.worker, first.devices.count()) == (worker, 0)
    assert reason_of(imports[1]).startswith("Next in the queue: the only import slot is busy.")
    assert schedule_pass() == 0
    end_attempt(first, AttemptState.LOST)
    Job.objects.filter(pk=imports[0].pk).update(state="cancelled", finished_at=Now())
    assert schedule_pass() == 1


def test_an_import_holds_no_cpu_either(team: Team) -> None:
    """However slowly its server sends, trainings get the device."""
    make_worker()
    imports = [make_import(team, "dataset") for _ in range(2)]
    training = make_job(team)
    assert schedule_pass() == 2
    assert training.attempts.get().devices.get().kind == "cpu"
    assert imports[0].attempts.get().devices.count() == imports[1].attempts.count() == 0


# ---- quotas, and what they are held against


def test_a_team_at_its_quota_waits_and_says_so(team: Team) -> None:
    make_worker(devices=3)
    TeamQuota.objects.create(team=team, max_devices=1)
    jobs = [make_job(team, created_at=timezone.now() - timedelta(minutes=9 - n)) for n in range(2)]
    assert schedule_pass() == 1
    assert reason_of(jobs[1]).startswith(
        f"Next in the queue: team {team.name} uses 1 of the 1 devices that its quota allows"
    )
    assert jobs[1].waiting_code == "team_devices"
    end_attempt(jobs[0].attempts.get(), AttemptState.CANCELLED)
    Job.objects.filter(pk=jobs[0].pk).update(state="cancelled", finished_at=Now())
    assert schedule_pass() == 1


def test_use_is_counted_within_the_month_and_fades_by_the_week(team: Team) -> None:
    """An hour that ended a week ago, on two devices, and half an hour that is going on, on one."""
    now = timezone.now()
    worker = make_worker(devices=2)
    old = make_attempt(make_job(team), make_worker(devices=0), state=AttemptState.LOST, finished_at=now)
    Attempt.objects.filter(pk=old.pk).update(assigned_at=now - timedelta(days=7, hours=1))
    for device in worker.devices.all():
        DeviceUse.objects.create(attempt=old, device=device, released_at=now - timedelta(days=7))
    new = make_attempt(make_job(team), worker)
    Attempt.objects.filter(pk=new.pk).update(assigned_at=now - timedelta(minutes=30))
    [use] = [use for use in uses_of_teams() if use.team == team]
    assert use.devices == 1
    this_month = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    in_month = lambda start, stop: max(0.0, (stop - max(start, this_month)).total_seconds()) / 3600  # noqa: E731
    old_hours = 2 * in_month(now - timedelta(days=7, hours=1), now - timedelta(days=7))
    assert use.month_hours == pytest.approx(old_hours + in_month(now - timedelta(minutes=30), now), abs=0.01)
    assert use.recent_hours == pytest.approx(2 * 0.5 + 0.5, rel=0.01)
    assert use.as_share().max_devices is None


def test_a_team_without_use_or_quota_has_all_of_the_fleet(team: Team) -> None:
    [use] = uses_of_teams()
    assert (use.devices, use.month_hours, use.recent_seconds, use.quota.weight) == (0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(("now", "expected"), [((2026, 11, 25), (2026, 12, 1)), ((2026, 12, 31), (2027, 1, 1))])
def test_the_month_after(now: tuple[int, int, int], expected: tuple[int, int, int]) -> None:
    assert month_after(datetime(*now, 23, 59, tzinfo=UTC)) == datetime(*expected, tzinfo=UTC)


# ---- what is written of waits


def test_a_wait_has_a_sentence_a_code_and_an_expected_start(team: Team) -> None:
    worker = make_worker()
    running = make_job(team, state="running", expected_seconds=1000.0)
    make_attempt(running, worker, state=AttemptState.RUNNING, lease_token="0" * 32, started_at=timezone.now())
    waiting = make_job(team)
    assert schedule_pass() == 0
    assert reason_of(waiting).startswith("Next in the queue: the only device is busy. It is expected to start")
    assert waiting.waiting_code == "devices"
    assert waiting.expected_start is not None
    assert timedelta(minutes=15) < waiting.expected_start - timezone.now() < timedelta(minutes=23)


def test_an_unchanged_wait_is_not_written_again(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    make_worker(drain_requested=True)
    make_job(team)
    announced: list[list[str]] = []
    monkeypatch.setattr(scheduler, "announce_all", announced.append)
    schedule_pass()
    schedule_pass()
    assert len(announced) == 1


def test_the_planner_says_how_long_a_training_takes_and_finished_jobs_how_long_an_import(team: Team) -> None:
    training, importing = make_job(team), make_job(team, kind="import", spec={"source": "folder:tiny"})
    assert (training.of_kind.expected_seconds(training), importing.of_kind.expected_seconds(importing)) == (None, None)
    make_worker()
    longer = job_with(team)
    longer.spec["training"]["epochs"] = 50
    first, second = training.of_kind.expected_seconds(training), longer.of_kind.expected_seconds(longer)
    assert first is not None
    assert second is not None
    assert STARTUP_SECONDS < first < second
    now = timezone.now()
    for seconds in (10, 40, 90):
        ended = make_job(team, kind="import", spec={}, state="succeeded", finished_at=now)
        began = now - timedelta(seconds=seconds)
        make_attempt(ended, state=AttemptState.SUCCEEDED, started_at=began, finished_at=now, lease_token=uuid4())
    assert importing.of_kind.expected_seconds(importing) == 40


def test_what_a_checkpoint_keeps_is_not_expected_again() -> None:
    assert seconds_left(1000.0, 30, 40) == 250.0
    assert seconds_left(1000.0, 0, None) == 1000.0
    assert seconds_left(None, 30, 40) is None


def test_one_pass_asks_the_database_a_bounded_number_of_questions(
    team: Team, django_assert_max_num_queries: Any
) -> None:
    make_worker(drain_requested=True)
    for _ in range(6):
        make_job(team)
    with django_assert_max_num_queries(14):
        schedule_pass()
