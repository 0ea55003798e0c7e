"""Pause, resume, preempt, cancel, retry: every step an event, no device kept, nothing lost on the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db.models.functions import Now

from finetune_hub.accounts.models import Role, User
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.models import BaseModel, BaseModelState
from finetune_hub.fleet.actions import drain_worker, release_device, resume_worker, set_quota, share_device
from finetune_hub.fleet.models import Worker
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.lifecycle import preempt
from finetune_hub.jobs.models import Attempt, DeviceUse, Job, JobState
from finetune_hub.jobs.reconciler import expire_attempts
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.steering import (
    cancel_job,
    change_priority,
    pause_job,
    preempt_job,
    resume_job,
    retry_job,
)
from finetune_hub.jobs.validation import validate_job
from finetune_hub.jobs.worker_port import Lease
from finetune_hub.operations.deletion.actions import delete_thing
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.problem import Failed
from finetune_hub.spec.refusal import Refusal
from tests.factories import make_job, make_member, make_team, make_user, make_worker

pytestmark = pytest.mark.django_db

FILES = [FileEntry(path="state.json", size_bytes=1, sha256="0" * 64)]


@pytest.fixture
def alice() -> User:
    return make_user("alice")


@pytest.fixture
def staff() -> User:
    return make_user(is_staff=True)


@pytest.fixture
def job(alice: User) -> Job:
    make_worker("gpu-1")
    return make_job(make_team(alice), created_by=alice)


def start(job: Job) -> Lease:
    """Place and claim an attempt."""
    assert schedule_pass() == 1
    attempt = job.attempts.active().get()
    lease = worker_port.claim_attempt(attempt.pk, worker=attempt.worker)
    assert lease is not None
    return lease


def checkpoint(lease: Lease, step: int) -> None:
    worker_port.record_checkpoint(lease, step=step, artifact_prefix=f"a{lease.attempt_id}-{step}", files=FILES)


def states(job: Job) -> tuple[str, list[str]]:
    """The job's state and its attempts', oldest first. Whatever has ended holds no device."""
    job.refresh_from_db()
    assert not DeviceUse.objects.filter(released_at=None, attempt__finished_at__isnull=False).exists()
    return job.state, list(job.attempts.order_by("number").values_list("state", flat=True))


def history(job: Job) -> list[tuple[str, str | None]]:
    return [(event.message, event.actor and event.actor.username) for event in job.events.select_related("actor")]


# ---- pause and resume


def test_a_queued_job_pauses_at_once_and_waits_for_nobody(job: Job, alice: User) -> None:
    for _ in range(2):
        pause_job(job.pk, alice, reason="Friday's demo needs the GPU.")
    assert schedule_pass() == 0
    assert states(job) == ("paused", [])
    for _ in range(2):
        resume_job(job.pk, alice)
    assert history(job) == [
        ("Paused. Friday's demo needs the GPU.", "alice"),
        ("Queued. Resumed. It will restart from the beginning.", "alice"),
    ]
    start(job)
    assert states(job) == ("running", ["running"])


def test_an_assigned_attempt_is_taken_back(job: Job, alice: User) -> None:
    assert schedule_pass() == 1
    [attempt_id] = worker_port.assigned_attempts(job.attempts.get().worker)
    pause_job(job.pk, alice)
    assert states(job) == ("paused", ["paused"])
    assert worker_port.claim_attempt(attempt_id, worker=job.attempts.get().worker) is None


def test_a_running_job_pauses_when_its_trainer_has_stopped(job: Job, alice: User, pokes: list[str]) -> None:
    lease = start(job)
    assert worker_port.renew_lease(lease) is False
    pause_job(job.pk, alice)
    assert pokes == ["worker.gpu-1"]
    assert worker_port.renew_lease(lease) is True
    job.refresh_from_db()
    assert (job.state, job.shown_state) == ("running", "pausing")
    checkpoint(lease, 40)
    worker_port.stop(lease, was_asked=True)
    assert states(job) == ("paused", ["paused"])
    assert history(job)[1:] == [
        ("Pausing: the trainer writes a checkpoint and stops.", "alice"),
        ("Paused. It will restart from the checkpoint of step 40.", None),
    ]
    resume_job(job.pk, alice)
    assert worker_port.renew_lease(start(job)) is False
    assert states(job) == ("running", ["paused", "running"])


def test_a_job_paused_while_its_rows_are_looked_at_does_not_start(job: Job, alice: User) -> None:
    Job.objects.filter(pk=job.pk).update(state=JobState.VALIDATING, kind="evaluate")
    pause_job(job.pk, alice)
    assert states(job) == ("validating", [])
    validate_job(job.pk)
    assert states(job) == ("paused", [])


def test_a_worker_lost_while_pausing_leaves_a_paused_job(job: Job, alice: User) -> None:
    lease = start(job)
    pause_job(job.pk, alice)
    Attempt.objects.filter(pk=lease.attempt_id).update(lease_expires_at=Now() - timedelta(seconds=1))
    assert expire_attempts() == 1
    assert states(job) == ("paused", ["lost"])


def test_resumed_before_it_has_paused_costs_no_retry(job: Job, alice: User) -> None:
    lease = start(job)
    pause_job(job.pk, alice)
    resume_job(job.pk, alice)
    assert worker_port.renew_lease(lease) is False
    worker_port.stop(lease, was_asked=True)  # The signal was on its way.
    assert states(job) == ("queued", ["paused"])
    assert job.fruitless_attempts == 0


def test_a_trainer_stopped_by_somebody_else_is_tried_again(job: Job) -> None:
    worker_port.stop(start(job), was_asked=False)
    assert states(job) == ("queued", ["failed"])
    assert job.fruitless_attempts == 1


def test_a_pausing_job_may_still_be_cancelled(job: Job, alice: User) -> None:
    lease = start(job)
    pause_job(job.pk, alice)
    cancel_job(job.pk, alice)
    worker_port.stop(lease, was_asked=True)
    assert states(job) == ("cancelled", ["cancelled"])


# ---- preemption


def test_a_preempted_job_is_queued_again_from_its_checkpoint(job: Job, pokes: list[str]) -> None:
    lease = start(job)
    attempt = job.attempts.get()
    assert preempt(attempt, "A job of higher priority needs its GPU.") is True
    assert preempt(attempt, "Again.") is False
    assert pokes == ["worker.gpu-1"]
    assert worker_port.renew_lease(lease) is True
    checkpoint(lease, 7)
    worker_port.stop(lease, was_asked=True)
    assert states(job) == ("queued", ["preempted"])
    assert [message for message, _ in history(job)[1:]] == [
        "Preempted: A job of higher priority needs its GPU. Its trainer writes a checkpoint first.",
        "Queued. It will restart from the checkpoint of step 7.",
    ]
    assert job.fruitless_attempts == 0


def test_an_admin_preempts_and_is_named(job: Job, alice: User) -> None:
    job.team.memberships.update(role=Role.ADMIN)
    with pytest.raises(Refusal, match="it has no device to give back"):
        preempt_job(job.pk, alice)
    lease = start(job)
    for _ in range(2):
        preempt_job(job.pk, alice, reason="The node is taken down.")
    asked = [event for event in job.events.all() if event.message.startswith("Preempted")]
    assert [(event.message, event.actor) for event in asked] == [
        ("Preempted: The node is taken down. Its trainer writes a checkpoint first.", alice)
    ]
    worker_port.stop(lease, was_asked=True)
    assert states(job) == ("queued", ["preempted"])
    assert schedule_pass() == 1
    preempt_job(job.pk, alice)  # Nobody has claimed the attempt.
    assert states(job) == ("queued", ["preempted", "preempted"])
    pause_job(job.pk, alice)
    with pytest.raises(Refusal, match="it has no device"):
        preempt_job(job.pk, alice)


def test_an_attempt_that_nobody_claimed_is_preempted_at_once(job: Job) -> None:
    assert schedule_pass() == 1
    assert preempt(job.attempts.get(), "The node is needed.") is True
    assert states(job) == ("queued", ["preempted"])


def test_what_stops_already_is_not_preempted(job: Job, alice: User) -> None:
    lease = start(job)
    pause_job(job.pk, alice)
    assert preempt(job.attempts.get(), "No.") is False
    worker_port.stop(lease, was_asked=True)
    assert preempt(job.attempts.get(), "No.") is False
    assert states(job) == ("paused", ["paused"])


# ---- retry


def failed(job: Job, *, steps: tuple[int, ...] = ()) -> None:
    lease = start(job)
    for step in steps:
        checkpoint(lease, step)
    worker_port.fail(lease, Failed("diverged", "Step 9 has the loss nan.", "Lower it."))


def test_a_failed_job_runs_again_as_the_same_job(job: Job, alice: User) -> None:
    failed(job, steps=(20, 40))
    retry_job(job.pk, alice, reason="With better luck.")
    assert states(job) == ("validating", ["failed"])
    assert (job.failure_class, job.failure_message, job.finished_at) == ("", "", None)
    assert history(job)[-1] == ("Retried. It will start from the checkpoint of step 40. With better luck.", "alice")
    assert job.run_time() == timedelta()  # Its maximum duration is counted anew.


@pytest.mark.parametrize(("from_step", "left"), [(None, [40, 20]), (40, [40, 20]), (20, [20]), (0, [])])
def test_a_chosen_checkpoint_is_the_newest_from_then_on(
    job: Job,
    alice: User,
    tmp_path: Path,
    django_capture_on_commit_callbacks: Any,
    from_step: int | None,
    left: list[int],
) -> None:
    failed(job, steps=(20, 40))
    keys = {saved.step: saved.keys[0] for saved in job.checkpoints.all()}
    store = shared_store(settings.ARTIFACT_URL)
    (tmp_path / "state.json").write_text("{}")
    for key in keys.values():
        store.put(key, tmp_path / "state.json")
    with django_capture_on_commit_callbacks(execute=True):
        retry_job(job.pk, alice, from_step=from_step)
    assert list(job.checkpoints.values_list("step", flat=True)) == left
    assert [step for step in (40, 20) if list(store.keys(keys[step].rpartition("/")[0]))] == left


def test_an_unknown_checkpoint_is_refused_and_known_ones_are_named(job: Job, alice: User) -> None:
    failed(job, steps=(20,))
    with pytest.raises(Refusal, match="no checkpoint of step 30") as refused:
        retry_job(job.pk, alice, from_step=30)
    assert "20" in refused.value.remedy
    assert states(job) == ("failed", ["failed"])


def test_a_retry_stands_at_the_end_of_the_line(job: Job, alice: User) -> None:
    cancel_job(job.pk, alice)
    other = make_job(job.team)
    retry_job(job.pk, alice)
    Job.objects.filter(pk=job.pk).update(state=JobState.QUEUED)
    assert [waiting.pk for waiting in Job.objects.in_queue_order()] == [other.pk, job.pk]


def test_a_job_whose_rows_are_gone_is_not_retried(job: Job, alice: User) -> None:
    cancel_job(job.pk, alice)
    delete_thing(Target("dataset", job.dataset_versions.get().dataset_id), alice)
    with pytest.raises(Refusal) as refused:
        retry_job(job.pk, alice)
    assert refused.value.code == "dataset_deleted"


def test_a_retried_import_takes_its_base_model_back(alice: User) -> None:
    team = make_team(alice)
    job = make_job(team, kind="import", spec={"source": "folder:tiny"})
    cancel_job(job.pk, alice)
    assert BaseModel.objects.get(pk=job.base_model_id).state == BaseModelState.FAILED
    retry_job(job.pk, alice)
    assert BaseModel.objects.get(pk=job.base_model_id).state == BaseModelState.IMPORTING
    cancel_job(job.pk, alice)
    BaseModel.objects.filter(pk=job.base_model_id).update(state=BaseModelState.READY)
    with pytest.raises(Refusal, match="imported again"):
        retry_job(job.pk, alice)


# ---- every verb in every state

VERBS: dict[str, tuple[Callable[[str, User], Any], set[str]]] = {
    "pause": (pause_job, {"validating", "queued", "paused", "running"}),
    "resume": (resume_job, {"validating", "queued", "paused", "running"}),
    "cancel": (cancel_job, set(JobState.values)),
    "retry": (retry_job, {"failed", "cancelled"}),
    "priority": (lambda job_id, user: change_priority(job_id, user, -3), {"validating", "queued", "paused", "running"}),
}


@pytest.mark.parametrize("state", JobState.values)
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_done_or_refused_with_the_state(alice: User, verb: str, state: str) -> None:
    columns: dict[str, Any] = {"desired_state": "pause"} if state == "paused" else {}
    if state in {"succeeded", "failed", "cancelled"}:
        columns |= {"finished_at": Now(), "failure_class": "internal" if state == "failed" else ""}
    job = make_job(make_team(alice), state=state, **columns)
    act, allowed = VERBS[verb]
    if state in allowed:
        act(job.pk, alice)
        return
    with pytest.raises(Refusal, match=f"{job.pk} is {state}") as refused:
        act(job.pk, alice)
    assert (refused.value.code, refused.value.kind) == ("wrong_job_state", "conflict")
    job.refresh_from_db()
    assert (job.state, job.event_count) == (state, 0)


# ---- priority


def test_higher_priorities_come_first(job: Job, alice: User) -> None:
    urgent, later = make_job(job.team, priority=3), make_job(job.team, priority=-1)
    assert [waiting.pk for waiting in Job.objects.in_queue_order()] == [urgent.pk, job.pk, later.pk]
    change_priority(job.pk, alice, -2)
    assert history(job) == [("Priority changed from 0 to -2.", "alice")]
    assert [waiting.pk for waiting in Job.objects.in_queue_order()] == [urgent.pk, later.pk, job.pk]


def test_only_admins_raise_a_priority_above_the_usual(job: Job, alice: User) -> None:
    with pytest.raises(Refusal, match="Only admins") as refused:
        change_priority(job.pk, alice, 1)
    assert refused.value.kind == "forbidden"
    admin = make_member(job.team, Role.ADMIN)
    assert change_priority(job.pk, admin, 10).priority == 10
    with pytest.raises(Refusal, match="from -10 to 10"):
        change_priority(job.pk, admin, 11)
    assert change_priority(job.pk, alice, 0).priority == 0
    make_team(alice, role=Role.ADMIN)  # An admin elsewhere is none here.
    with pytest.raises(Refusal, match="Only admins"):
        change_priority(job.pk, alice, 1)


def test_a_resumed_worker_gets_jobs_at_once(
    job: Job, staff: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    worker = Worker.objects.get()
    drain_worker(worker, actor=staff)
    assert schedule_pass() == 0
    sent: list[str] = []
    monkeypatch.setattr("finetune_hub.fleet.pokes.app.send_task", lambda task, **options: sent.append(task))
    with django_capture_on_commit_callbacks(execute=True):
        resume_worker(worker, actor=staff)
    assert sent == ["workers.control.schedule"]
    assert schedule_pass() == 1


def test_whatever_frees_a_device_is_told_to_the_scheduler_at_once(
    staff: User, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    device = make_worker().devices.get()
    type(device).objects.update(quarantined_at=Now(), quarantine_reason="It was hot.")
    team = make_team(staff)
    sent: list[str] = []
    monkeypatch.setattr("finetune_hub.fleet.pokes.app.send_task", lambda task, **options: sent.append(task))
    changes: list[Callable[[], object]] = [
        lambda: share_device(device, True, actor=staff),
        lambda: release_device(device, actor=staff),
        lambda: set_quota(team, max_devices=3, max_hours=None, weight=2.0, actor=staff),
    ]
    for change in changes:
        for expected in (["workers.control.schedule"], []):  # The second time nothing has changed.
            sent.clear()
            with django_capture_on_commit_callbacks(execute=True):
                change()
            assert sent == expected


@pytest.fixture
def pokes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The queues of the workers that were poked, without waiting for a commit."""
    poked: list[str] = []
    monkeypatch.setattr("finetune_hub.jobs.lifecycle.poke_worker", lambda worker: poked.append(worker.queue))
    monkeypatch.setattr("finetune_hub.jobs.steering.poke_worker", lambda worker: poked.append(worker.queue))
    return poked
