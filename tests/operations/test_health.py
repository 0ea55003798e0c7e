"""Health in words: each thing that breaks is found, named, and comes with what to do."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis
from django.core import mail
from django.db.models.functions import Now
from django.urls import reverse

from finetune_hub.accounts.models import Role, Team
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import shared_store
from finetune_hub.fleet.models import Worker
from finetune_hub.jobs.models import AttemptState, Job, JobState
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.notifications.delivery import deliver_pass
from finetune_hub.notifications.models import EmailWish, Notification, Wants
from finetune_hub.operations import health
from finetune_hub.operations.health import (
    Finding,
    disk_finding,
    jobs_without_a_device,
    look,
    probe_artifacts,
    tell_of_waiting_jobs,
    worst_of,
)
from finetune_hub.operations.models import Round, RoundName, record_round
from tests.dashboard.conftest import signed_in
from tests.factories import make_attempt, make_job, make_team, make_user, make_worker
from workers.control import probe, reconcile

pytestmark = pytest.mark.django_db


@pytest.fixture
def team() -> Team:
    return make_team(make_user("alice", email="alice@example.org"), role=Role.ADMIN)


@pytest.fixture
def well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub with nothing wrong, on a large disk."""
    for name in RoundName:
        record_round(name)
    make_worker("gpu-1")
    monkeypatch.setattr(health.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 2**40}))


def found(part: str) -> list[Finding]:
    return [finding for finding in look() if finding.part == part and finding.level != "ok"]


def test_all_is_well(well: None) -> None:
    assert worst_of(look()) == "ok"


def test_redis_is_away(well: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(health, "ping_redis", fail)
    [finding] = found("Redis")
    assert "No data is lost" in finding.message


def test_a_reconciler_that_stands_still(well: None) -> None:
    Round.objects.filter(name=RoundName.RECONCILE).update(finished_at=Now() - timedelta(minutes=5))
    [finding] = found("Reconciler")
    assert finding.message.startswith("Control's last round was 300 s ago")


def test_controls_tasks_note_their_rounds() -> None:
    reconcile()
    probe()
    assert set(Round.objects.values_list("name", flat=True)) == {"reconcile", "probe"}
    assert not Round.objects.exclude(problem="").exists()


def test_the_store_is_really_tried(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ARTIFACT_URL = tmp_path.as_uri()
    assert probe_artifacts() == ""
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # It leaves nothing.
    (tmp_path / "file").write_text("")
    settings.ARTIFACT_URL = (tmp_path / "file").as_uri()
    assert "cannot be written" in probe_artifacts()
    settings.ARTIFACT_URL = "gopher://nowhere"
    assert "is not the URL of a store" in probe_artifacts()
    settings.ARTIFACT_URL = tmp_path.as_uri()

    def broken(key: str) -> None:
        raise ArtifactError("The bucket is gone.")

    monkeypatch.setattr(shared_store(settings.ARTIFACT_URL), "open", broken)
    assert "The bucket is gone." in probe_artifacts()


def test_what_the_probe_found_is_shown(well: None) -> None:
    record_round(RoundName.PROBE, "A file cannot be written.")
    [finding] = found("Artifact store")
    assert (finding.level, finding.message) == ("bad", "A file cannot be written.")


@pytest.mark.parametrize(("size", "level"), [("0.5 GB", "bad"), ("5.0 GB", "warning"), ("50.0 GB", "ok")])
def test_disks(size: str, level: str) -> None:
    finding = disk_finding("The hub's home", int(float(size.split()[0]) * 1e9))
    assert finding.level == level
    assert size.replace("0.5 GB", "500 MB") in finding.message


def test_workers_that_are_offline_full_or_old(well: None) -> None:
    make_worker("old", heartbeat_at=Now() - timedelta(minutes=5))
    make_worker("full", free_bytes=1000)
    make_worker("gone", heartbeat_at=Now() - timedelta(days=5), removed_at=Now())
    type(make_worker("ancient")).objects.filter(name="ancient").update(version="0.0.9")
    assert [finding.message.partition(".")[0] for finding in found("Workers")] == [
        "full is unhealthy",
        "old is offline",
    ]
    [finding] = found("Versions")
    assert finding.message.startswith("ancient runs version 0.0.9")


def test_a_quarantined_device(well: None) -> None:
    device = make_worker("gpu-2").devices.get()
    type(device).objects.filter(pk=device.pk).update(quarantined_at=Now(), quarantine_reason="It reported Xid 79.")
    [finding] = found("Devices")
    assert finding.message == "gpu-2, cpu 0: It reported Xid 79."


def test_jobs_that_stand_still(well: None, team: Team) -> None:
    silent = make_job(team, state=JobState.RUNNING)
    columns = {"state": AttemptState.RUNNING, "lease_token": uuid4(), "started_at": Now() - timedelta(hours=2)}
    make_attempt(silent, make_worker("gpu-3"), progress_at=Now() - timedelta(minutes=45), **columns)
    make_attempt(make_job(team, state=JobState.RUNNING), make_worker("busy"), progress_at=Now(), **columns)
    make_job(team, state=JobState.VALIDATING, not_before=Now() - timedelta(minutes=9))
    messages = [finding.message for finding in found("Jobs")]
    assert messages == [
        "Jobs waiting for control to validate them: 1.",
        "A job on gpu-3 has reported nothing for 30 minutes.",
    ]


def test_a_wait_for_a_device_that_is_not_there_is_told_once(team: Team, settings: Any) -> None:
    settings.EMAIL_IS_SET_UP = True
    EmailWish.objects.create(user=team.memberships.get().user, wants=Wants.PROBLEMS)
    long_ago = Now() - timedelta(minutes=61)
    job = make_job(team, created_at=long_ago, not_before=long_ago)
    make_job(team)  # It has just come.
    schedule_pass()
    for _ in range(2):
        tell_of_waiting_jobs()
    assert Notification.objects.count() == 1
    assert deliver_pass() == ""
    [message] = mail.outbox
    assert message.subject == f"{job.subject}: waiting for a device"
    assert "It has waited for an hour. No worker has joined yet." in message.body
    assert [finding.message for finding in found("Jobs")] == ["Jobs waiting for an hour without a suitable device: 1."]
    make_worker()
    schedule_pass()
    assert found("Jobs") == []


def test_a_wait_that_the_devices_there_cannot_end_is_found_too(well: None, team: Team) -> None:
    long_ago = Now() - timedelta(minutes=61)
    job = make_job(team, created_at=long_ago, not_before=long_ago, memory_bytes_needed=10**15)
    make_attempt(make_job(team, state=JobState.RUNNING), Worker.objects.get())
    busy = make_job(team, created_at=long_ago, not_before=long_ago)
    schedule_pass()
    assert list(jobs_without_a_device()) == [job]
    busy.refresh_from_db()
    assert busy.waiting_code == "devices"


def test_page_and_api_say_the_same(well: None, team: Team) -> None:
    make_worker("old", heartbeat_at=Now() - timedelta(minutes=5))
    page = signed_in(team.memberships.get().user).get(reverse("health")).content.decode()
    assert "old is offline" in page
    assert "Something does not work." in page


def test_questions_stay_few(well: None, team: Team, django_assert_max_num_queries: Any) -> None:
    for number in range(5):
        make_worker(f"old-{number}", heartbeat_at=Now() - timedelta(minutes=5))
        Job.objects.filter(pk=make_job(team).pk).update(created_at=Now() - timedelta(hours=3))
    with django_assert_max_num_queries(9):
        look()
