"""Files and their owners: a file goes with its last owner, and the sweep finds what lacks the other, both ways."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from finetune_hub.accounts.models import Team
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.catalog.models import BaseModel
from finetune_hub.jobs.models import Job, JobState, Publication
from finetune_hub.operations.deletion.actions import (
    delete_thing,
    look_ahead,
    purge_pass,
    restore_deletion,
)
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.operations.retention import tidy_pass
from finetune_hub.operations.store_check import check_store
from finetune_hub.registry.adapter_choices import find_adapter_version
from tests.factories import (
    first_member,
    make_adapter_version,
    make_attempt,
    make_base_model,
    make_dataset_version,
    make_job,
    make_team,
    make_user,
)
from tests.operations.deleted_things import (
    end_grace,
    make_ended_job,
    put,
    stored_bytes,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def store(settings: Any, tmp_path: Path) -> ArtifactStore:
    settings.ARTIFACT_URL = (tmp_path / "store").as_uri()
    return shared_store(settings.ARTIFACT_URL)


@pytest.fixture
def team(store: ArtifactStore) -> Team:
    return make_team(make_user())


# ---- files with several owners


def test_a_file_goes_with_its_last_owner(team: Team, store: ArtifactStore) -> None:
    user, first = first_member(team), make_base_model(team, "first")
    second = make_base_model(team, "second")
    for key in list(store.keys(second.artifact_prefix)):
        store.delete(key)
    BaseModel.objects.filter(pk=second.pk).update(artifact_prefix=first.artifact_prefix)
    size = stored_bytes(store)
    assert look_ahead(Target("base_model", first.pk)).size_bytes == 0
    one = delete_thing(Target("base_model", first.pk), user)
    end_grace(one)
    purge_pass(store)
    assert stored_bytes(store) == size
    assert look_ahead(Target("base_model", second.pk)).size_bytes == size
    other = delete_thing(Target("base_model", second.pk), user)
    assert stored_bytes(store) == size
    end_grace(other)
    purge_pass(store)
    assert (stored_bytes(store), other.size_bytes) == (0, size)


def test_of_two_in_the_trash_the_one_that_comes_back_keeps_the_file(team: Team, store: ArtifactStore) -> None:
    user, first = first_member(team), make_base_model(team, "first")
    second = make_base_model(team, "second")
    BaseModel.objects.filter(pk=second.pk).update(artifact_prefix=first.artifact_prefix)
    for key in list(store.keys(second.artifact_prefix)):
        store.delete(key)
    one = delete_thing(Target("base_model", first.pk), user)
    other = delete_thing(Target("base_model", second.pk), user)
    end_grace(one)
    purge_pass(store)
    restore_deletion(other, user)
    assert check_store(store).is_sound


def test_a_purged_job_leaves_what_it_published_and_used(team: Team, store: ArtifactStore) -> None:
    user, job = first_member(team), make_ended_job(team, JobState.SUCCEEDED)
    attempt = job.attempts.get()
    version = make_adapter_version(team)
    Publication.objects.create(job=job, attempt=attempt, step=1, adapter_version=version)
    target = Target("job", job.pk)
    assert [each.name for each in look_ahead(target).stays] == [str(version)]
    end_grace(delete_thing(target, user))
    purge_pass(store)
    attempt.refresh_from_db()
    assert (job.checkpoints.count(), attempt.log_tail) == (0, "")
    assert Job.objects.filter(pk=job.pk).exists()  # Hours of use and lineage name it.
    assert find_adapter_version(team, version.adapter.name, None) == version
    assert check_store(store).is_sound


def test_a_job_goes_with_its_parts(team: Team) -> None:
    user, parent = first_member(team), make_ended_job(team)
    part = make_ended_job(team, parent=parent)
    deletion = delete_thing(Target("job", parent.pk), user)
    assert not Job.objects.of_team(team).exists()
    assert "and 1 of its jobs" in deletion.subject
    restore_deletion(deletion, user)
    assert set(Job.objects.of_team(team)) == {parent, part}


# ---- the sweep


def test_the_sweep_finds_files_without_owners_and_owners_without_files(
    team: Team, store: ArtifactStore, settings: Any
) -> None:
    version, dataset = make_adapter_version(team), make_dataset_version(team, "swept")
    job = make_ended_job(team)
    assert check_store(store).is_sound
    stray = [
        f"jobs/{job.pk}/1/adapter/adapter_model.safetensors",
        "jobs/ftjob-gone/1/adapter/a",
        "base-models/bm-gone/model.safetensors",
        f"datasets/{dataset.dataset_id}/{'0' * 64}.jsonl",
    ]
    for key in stray:
        put(key, "stray")
    assert check_store(store, delete=True).is_sound  # They may be of somebody who is about to name them.
    settings.KEEP_ORPHANS = timedelta(0)
    found = check_store(store)
    assert sorted(found.orphans) == sorted(stray)
    assert (found.orphans[stray[0]], found.missing) == (5, [])
    swept = check_store(store, delete=True)
    assert (swept.deleted_count, swept.is_sound, check_store(store).is_sound) == (4, True, True)
    lost = [f"{version.artifact_prefix}/adapter_config.json", dataset.artifact_key]
    for key in lost:
        store.delete(key)
    found = check_store(store, delete=True)
    assert sorted(each.key for each in found.missing) == sorted(lost)
    assert str(version) in found.problem
    end_grace(delete_thing(Target("adapter", version.adapter_id), first_member(team)))
    purge_pass(store)
    assert [each.owner for each in check_store(store).missing] == ["dataset swept v1"]


def test_the_sweep_leaves_what_an_attempt_may_still_publish(team: Team, store: ArtifactStore, settings: Any) -> None:
    settings.KEEP_ORPHANS = timedelta(seconds=-1)
    running = make_attempt(make_job(team, state=JobState.RUNNING), number=1)
    importing = BaseModel.objects.create(team=team, name="new", source="upload:x", created_by=first_member(team))
    ten = f"jobs/{running.job_id}/10/adapter/a"
    for key in (f"{running.artifact_prefix}/adapter/a", importing.upload_key, ten):
        put(key, "mine")
    assert list(check_store(store).orphans) == [ten]


def test_the_command_says_what_it_found(team: Team, store: ArtifactStore, settings: Any, capsys: Any) -> None:
    make_adapter_version(team)
    put("jobs/ftjob-gone/1/adapter/a", "stray")
    settings.KEEP_ORPHANS = timedelta(0)
    with pytest.raises(CommandError, match="Files without an owner: 1"):
        call_command("check_store")
    assert "no owner  jobs/ftjob-gone/1/adapter/a  5 bytes" in capsys.readouterr().out
    call_command("check_store", "--delete")
    assert "Deleted without an owner: 1." in capsys.readouterr().out


def test_the_hourly_round_purges_and_reports_what_is_missing(team: Team, store: ArtifactStore) -> None:
    adapter, dataset = make_adapter_version(team), make_dataset_version(team, "kept")
    before, deletion = stored_bytes(store), delete_thing(Target("adapter", adapter.adapter_id), first_member(team))
    assert (tidy_pass(), stored_bytes(store)) == ("", before)
    end_grace(deletion)
    assert tidy_pass() == ""
    assert before - stored_bytes(store) == deletion.size_bytes
    store.delete(dataset.artifact_key)
    assert f"{dataset.artifact_key} of dataset kept v1" in tidy_pass()
