"""Tidying up against a real store: what is old or nobody's goes, and what somebody needs stays, whatever its age."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from finetune_hub.accounts.models import Team
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.catalog.models import Deletion
from finetune_hub.fleet.models import DeviceSample
from finetune_hub.jobs.models import Attempt, AttemptState, Checkpoint, Job, JobState
from finetune_hub.notifications.models import Channel, Notification
from finetune_hub.operations import retention
from finetune_hub.operations.deletion.actions import delete_thing
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.operations.retention import (
    collect_dataset_files,
    collect_leftovers,
    delete_unless_named,
    expire_checkpoints,
    expire_logs,
    tidy_pass,
)
from tests.factories import (
    make_adapter_version,
    make_attempt,
    make_dataset_version,
    make_job,
    make_team,
    make_user,
    make_worker,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def store(settings: Any, tmp_path: Path) -> ArtifactStore:
    settings.ARTIFACT_URL = (tmp_path / "store").as_uri()
    return shared_store(settings.ARTIFACT_URL)


@pytest.fixture
def team(store: ArtifactStore) -> Team:
    return make_team(make_user("alice"))


def put(store: ArtifactStore, key: str, tmp_path: Path) -> str:
    source = tmp_path / "source"
    source.write_text(key)
    store.put(key, source)
    return key


def ended(team: Team, days: float, state: JobState = JobState.FAILED) -> tuple[Job, Attempt]:
    """A job whose one attempt ended so many days ago."""
    moment = timezone.now() - timedelta(days=days)
    failure = {"failure_class": "internal"} if state == JobState.FAILED else {}
    job = make_job(team, state=state, finished_at=moment, **failure)
    return job, make_attempt(job, state=AttemptState.LOST, finished_at=moment, log_tail="the last words")


def make_checkpoint(store: ArtifactStore, attempt: Attempt, tmp_path: Path, step: int = 1) -> Checkpoint:
    prefix = f"{attempt.artifact_prefix}/checkpoints/step-{step}"
    put(store, f"{prefix}/state.json", tmp_path)
    entry = {"path": "state.json", "size_bytes": 1, "sha256": "0" * 64}
    return Checkpoint.objects.create(
        job=attempt.job, attempt=attempt, step=step, artifact_prefix=prefix, manifest=[entry]
    )


def keys(store: ArtifactStore) -> list[str]:
    return list(store.keys("jobs"))


def test_checkpoints_of_jobs_that_ended_long_ago_go(team: Team, store: ArtifactStore, tmp_path: Path) -> None:
    old, young = ended(team, 31)[1], ended(team, 29)[1]
    running = make_attempt(make_job(team, state=JobState.RUNNING))
    for attempt in (old, young, running):
        make_checkpoint(store, attempt, tmp_path)
    Checkpoint.objects.update(created_at=Now() - timedelta(days=400))
    assert expire_checkpoints(store) == 1
    assert {key.split("/")[1] for key in keys(store)} == {young.job_id, running.job_id}
    assert set(Checkpoint.objects.values_list("attempt", flat=True)) == {young.pk, running.pk}


def test_a_round_that_dies_half_way_is_done_again(
    team: Team, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, attempt = ended(team, 31)
    for step in (1, 2):
        make_checkpoint(store, attempt, tmp_path, step)
    deleted: list[str] = []

    def die(key: str) -> None:
        if deleted:
            raise OSError("the disk is gone")
        deleted.append(key)
        (tmp_path / "store" / key).unlink()

    monkeypatch.setattr(store, "delete", die)
    with pytest.raises(OSError, match="gone"):
        expire_checkpoints(store)
    monkeypatch.undo()
    assert Checkpoint.objects.count() == 2  # A row stays until its files are gone.
    expire_checkpoints(store)
    assert (keys(store), Checkpoint.objects.count()) == ([], 0)


def test_logs_go_and_history_stays(team: Team) -> None:
    (old_job, old), (_, young) = ended(team, 91), ended(team, 89)
    old_job.events.create(number=1, message="Submitted.")
    assert expire_logs() == 1
    assert Attempt.objects.get(pk=old.pk).log_tail == ""
    assert Attempt.objects.get(pk=young.pk).log_tail == "the last words"
    assert old_job.events.count() == 1


def test_what_an_attempt_left_and_nobody_names_is_collected(team: Team, store: ArtifactStore, tmp_path: Path) -> None:
    """Stored and never published; half a checkpoint; and beside them what is published and what may be resumed."""
    _, attempt = ended(team, 2)
    put(store, f"{attempt.artifact_prefix}/model/model.safetensors", tmp_path)
    put(store, f"{attempt.artifact_prefix}/checkpoints/step-10/state.json", tmp_path)
    kept_checkpoint = make_checkpoint(store, attempt, tmp_path, step=1)
    adapter = f"{attempt.artifact_prefix}/adapter"
    make_adapter_version(team, artifact_prefix=adapter)
    put(store, f"{adapter}/adapter_model.safetensors", tmp_path)
    assert collect_leftovers(store) == 2
    below = [key for key in keys(store) if key.startswith(attempt.artifact_prefix)]
    assert below == [f"{adapter}/adapter_model.safetensors", f"{kept_checkpoint.artifact_prefix}/state.json"]


def test_what_may_still_be_written_is_left_alone(team: Team, store: ArtifactStore, tmp_path: Path) -> None:
    """An attempt that ended an hour ago may have a worker that does not know yet; one that runs is its own."""
    _, lately = ended(team, 1 / 24)
    running = make_attempt(make_job(team, state=JobState.RUNNING))
    for attempt in (lately, running):
        put(store, f"{attempt.artifact_prefix}/adapter/a", tmp_path)
    assert collect_leftovers(store) == 0
    assert len([key for key in keys(store) if key.endswith("/adapter/a")]) == 2


def test_each_attempt_is_looked_at_once_and_a_round_is_bounded(
    team: Team, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days in (2, 3, 4):
        put(store, f"{ended(team, days)[1].artifact_prefix}/adapter/a", tmp_path)
    monkeypatch.setattr(retention, "PASS_LIMIT", 2)
    assert [collect_leftovers(store) for _ in range(3)] == [2, 1, 0]


def test_a_job_number_that_begins_like_another_is_another(team: Team, store: ArtifactStore, tmp_path: Path) -> None:
    """jobs/X/1 is not jobs/X/10."""
    job, _ = ended(team, 2)
    tenth = make_attempt(job, number=10, state=AttemptState.LOST, finished_at=timezone.now())
    put(store, f"{tenth.artifact_prefix}/adapter/a", tmp_path)
    assert collect_leftovers(store) == 0


def test_files_of_datasets_that_no_version_names_are_collected(
    team: Team, store: ArtifactStore, tmp_path: Path, settings: Any
) -> None:
    """An upload that died before its row; a deletion that died after it; and beside them what is read."""
    kept, buried = make_dataset_version(team, "kept"), make_dataset_version(team, "buried")
    deletion = delete_thing(Target("dataset", buried.dataset_id, 1), team.memberships.get().user)
    Deletion.objects.filter(pk=deletion.pk).update(purged_at=Now())
    orphan = put(store, f"datasets/{kept.dataset_id}/{'0' * 64}.jsonl", tmp_path)
    put(store, f"datasets/ds-gone/{'0' * 64}.jsonl.original", tmp_path)
    assert collect_dataset_files(store) == 0  # They may be of an upload that is under way.
    settings.KEEP_ORPHANS = timedelta(0)
    assert delete_unless_named(store, kept.artifact_key) is False
    assert collect_dataset_files(store) == 2 + len(buried.keys)
    assert list(store.keys("datasets")) == sorted(kept.keys)
    assert orphan not in store.keys("datasets")


def test_a_round_forgets_old_readings_and_sent_messages(team: Team) -> None:
    device = make_worker().devices.get()
    for hours in (1, 25):
        DeviceSample.objects.create(device=device, at=timezone.now() - timedelta(hours=hours))
    long_ago = timezone.now() - timedelta(days=31)
    for key, sent_at in (("sent", long_ago), ("waiting", None)):
        columns = {"created_at": long_ago, "channel": Channel.CHAT, "team": team, "subject": "", "body": ""}
        Notification.objects.create(key=key, sent_at=sent_at, **columns)
    assert tidy_pass() == ""
    assert DeviceSample.objects.count() == 1
    assert Notification.objects.get().key == "waiting"


def test_a_store_that_is_away_does_not_keep_the_rest_waiting(
    team: Team, store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, attempt = ended(team, 91)
    make_checkpoint(store, attempt, tmp_path)

    def fail(key: str) -> None:
        raise ArtifactError("The bucket is gone.")

    monkeypatch.setattr(store, "delete", fail)
    assert "The bucket is gone." in tidy_pass()
    assert Checkpoint.objects.count() == 1
    assert Attempt.objects.get(pk=attempt.pk).log_tail == ""
