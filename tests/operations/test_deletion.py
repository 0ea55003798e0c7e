"""Deletion of each kind: what needs a thing is named, it vanishes, comes back, and its bytes go after the grace."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from finetune_hub.accounts.models import AuditEvent, Role, Team
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.catalog.actions import keep_dataset_version
from finetune_hub.catalog.aliases import set_alias
from finetune_hub.catalog.choices import find_base_model, find_dataset_version
from finetune_hub.catalog.models import BaseModelAlias, Deletion
from finetune_hub.jobs import submission
from finetune_hub.jobs.held_inputs import hold_inputs
from finetune_hub.jobs.kinds.evaluation import submit_evaluation
from finetune_hub.jobs.kinds.training import submit_training
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.jobs.steering import cancel_job, pause_job, retry_job
from finetune_hub.operations.deletion.actions import (
    begin_purge,
    delete_thing,
    finish_purge,
    look_ahead,
    purge_pass,
    restore_deletion,
)
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.operations.store_check import check_store
from finetune_hub.registry.adapter_choices import find_adapter_version
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice
from tests.factories import (
    chat_row,
    first_member,
    make_adapter_version,
    make_base_model,
    make_dataset_version,
    make_job,
    make_member,
    make_spec,
    make_team,
    make_user,
    write_rows,
)
from tests.operations.deleted_things import (
    KINDS,
    end_grace,
    make_ended_job,
    make_thing,
    refusal_of,
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


# ---- what is the same for all kinds


@pytest.mark.parametrize("kind", KINDS)
def test_it_vanishes_at_once_and_comes_back(team: Team, store: ArtifactStore, kind: str) -> None:
    user, thing, before = first_member(team), make_thing(kind, team), stored_bytes(store)
    assert thing.is_listed()
    deletion = delete_thing(thing.target, user)
    assert not thing.is_listed()
    assert deletion.purge_after - deletion.deleted_at == timedelta(days=7)
    assert list(Deletion.objects.of_team(team).restorable()) == [deletion]
    assert delete_thing(thing.target, user) == deletion
    assert refusal_of(lambda: look_ahead(thing.target)).code == "already_deleted"
    restored = restore_deletion(deletion, user)
    assert thing.is_listed()
    assert restore_deletion(deletion, user).restored_at == restored.restored_at
    assert not Deletion.objects.restorable().exists()
    assert (purge_pass(store), stored_bytes(store)) == (0, before)
    verbs = list(AuditEvent.objects.filter(team=team).order_by("pk").values_list("verb", "subject"))
    assert [verb for verb, _ in verbs] == ["deleted", "restored"]
    assert all(deletion.subject in subject for _, subject in verbs)
    assert delete_thing(thing.target, user) != deletion


@pytest.mark.parametrize("kind", KINDS)
def test_the_named_bytes_go_after_the_grace_and_not_before(team: Team, store: ArtifactStore, kind: str) -> None:
    user, thing = first_member(team), make_thing(kind, team)
    outlook, before = look_ahead(thing.target), stored_bytes(store)
    assert outlook.size_bytes > 0
    assert "It can be restored for 7 days." in outlook.sentence
    deletion = delete_thing(thing.target, user)
    assert (purge_pass(store), stored_bytes(store)) == (0, before)
    end_grace(deletion)
    assert refusal_of(lambda: restore_deletion(deletion, user)).code == "restore_expired"
    assert purge_pass(store) == 1
    assert before - stored_bytes(store) == outlook.size_bytes == deletion.size_bytes
    assert purge_pass(store) == 0
    assert refusal_of(lambda: restore_deletion(deletion, user)).code == "restore_expired"
    assert check_store(store).is_sound
    assert not thing.is_listed()
    assert [event.verb for event in AuditEvent.objects.order_by("pk")] == ["deleted", "purged"]


@pytest.mark.parametrize("kind", KINDS)
def test_who_may_not_changes_nothing(team: Team, kind: str) -> None:
    thing, viewer, outsider = make_thing(kind, team), make_member(team, Role.VIEWER), make_user()
    make_team(outsider, role=Role.ADMIN)
    for person in (viewer, outsider):
        assert refusal_of(lambda person=person: delete_thing(thing.target, person)).code == "forbidden"
    assert thing.is_listed()
    deletion = delete_thing(thing.target, first_member(team))
    for person in (viewer, outsider):
        assert refusal_of(lambda person=person: restore_deletion(deletion, person)).code == "forbidden"
    assert not thing.is_listed()
    assert AuditEvent.objects.count() == 1
    assert not Deletion.objects.visible_to(outsider).exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_purge_that_dies_half_way_is_finished_and_never_restored(
    team: Team, store: ArtifactStore, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, thing = first_member(team), make_thing(kind, team)
    before, deletion = stored_bytes(store), delete_thing(thing.target, user)
    end_grace(deletion)
    real, deleted = store.delete, []

    def die_after_one(key: str) -> None:
        if deleted:
            raise OSError("the power is gone")
        deleted.append(key)
        real(key)

    monkeypatch.setattr(store, "delete", die_after_one)
    for _ in range(2):
        deleted.clear()
        try:
            purge_pass(store)
        except OSError:
            assert refusal_of(lambda: restore_deletion(deletion, user)).code == "restore_expired"
    monkeypatch.undo()
    purge_pass(store)
    assert before - stored_bytes(store) == deletion.size_bytes
    assert check_store(store).is_sound
    assert AuditEvent.objects.filter(verb="purged").count() == 1


def test_what_somebody_restores_in_the_last_second_is_not_purged(team: Team, store: ArtifactStore) -> None:
    thing = make_thing("adapter", team)
    deletion = delete_thing(thing.target, first_member(team))
    restore_deletion(deletion, first_member(team))
    end_grace(deletion)
    begin_purge(deletion.pk)
    purge_pass(store)
    assert thing.is_listed()
    assert check_store(store).is_sound


# ---- what needs it


def test_unfinished_jobs_hold_all_that_they_need_by_name(team: Team) -> None:
    user, version = first_member(team), make_adapter_version(team)
    job = make_job(
        team, kind="evaluate", adapter_version=version, base_model=version.adapter.base_model, state=JobState.QUEUED
    )
    pause_job(job.pk, user)  # Paused is not ended.
    targets = [
        Target("adapter", version.adapter_id),
        Target("adapter", version.adapter_id, 1),
        Target("dataset", job.dataset_versions.get().dataset_id),
        Target("dataset", job.dataset_versions.get().dataset_id, 1),
        Target("base_model", job.over.pk),
        Target("job", job.pk),
    ]
    for target in targets:
        refused = refusal_of(lambda target=target: delete_thing(target, user, accept_dependents=True))
        assert (refused.code, refused.kind) == (f"{target.kind}_in_use", "conflict")
        assert job.pk in refused.message
        assert [detail["loc"] for detail in refused.details] == [["job", job.pk]]
        assert [each.id for each in look_ahead(target).held_by] == [job.pk]
    assert not Deletion.objects.exists()
    cancel_job(job.pk, user)
    for target in targets:
        delete_thing(target, user, accept_dependents=True)


def test_a_job_that_another_follows_or_waits_for_stays(team: Team) -> None:
    user, first = first_member(team), make_ended_job(team, JobState.SUCCEEDED)
    follower = make_job(team, after=first)
    assert follower.pk in refusal_of(lambda: delete_thing(Target("job", first.pk), user)).message
    parent = make_job(team, state=JobState.RUNNING)
    part = make_ended_job(team, JobState.SUCCEEDED, parent=parent)
    assert parent.pk in refusal_of(lambda: delete_thing(Target("job", part.pk), user)).message


def test_a_base_model_goes_with_its_adapters_named_and_accepted(team: Team) -> None:
    user, version = first_member(team), make_adapter_version(team)
    model = version.adapter.base_model
    set_alias(team, user, alias="gpt-4o", base_model=model.name)
    target = Target("base_model", model.pk)
    refused = refusal_of(lambda: delete_thing(target, user))
    assert refused.code == "has_dependents"
    assert str(version) in refused.message
    assert "gpt-4o" in refused.message
    deletion = delete_thing(target, user, accept_dependents=True)
    assert not BaseModelAlias.objects.of_team(team).exists()
    for name in (model.name, "gpt-4o"):
        assert refusal_of(lambda name=name: find_base_model(team, name)).code == "unknown_base_model"
    assert find_adapter_version(team, version.adapter.name, None) == version
    held_out = DatasetChoice(name=make_dataset_version(team).dataset.name)
    evaluated = refusal_of(lambda: submit_evaluation(team, user, adapter_version=version, dataset=held_out))
    assert evaluated.code == "deleted_meanwhile"
    restore_deletion(deletion, user)
    assert find_base_model(team, "gpt-4o") == model


def test_the_name_of_a_base_model_is_free_at_once(team: Team) -> None:
    user, old = first_member(team), make_base_model(team, "small")
    deletion = delete_thing(Target("base_model", old.pk), user)
    new = make_base_model(team, "small")
    assert find_base_model(team, "small") == new
    refused = refusal_of(lambda: restore_deletion(deletion, user))
    assert (refused.code, refused.kind) == ("base_model_exists", "conflict")
    delete_thing(Target("base_model", new.pk), user)
    restore_deletion(deletion, user)
    assert find_base_model(team, "small") == old


def test_what_only_came_from_it_is_named_and_stays(team: Team, store: ArtifactStore) -> None:
    user, version = first_member(team), make_adapter_version(team)
    dataset = version.lineage.get(dataset_version__isnull=False).dataset_version
    assert dataset is not None
    target = Target("dataset", dataset.dataset_id, dataset.number)
    assert [each.name for each in look_ahead(target).stays] == [str(version)]
    end_grace(delete_thing(target, user))
    purge_pass(store)
    dataset.refresh_from_db()
    assert (dataset.first_rows, len(dataset.sha256)) == ([], 64)
    assert version.lineage.filter(dataset_version=dataset).exists()


# ---- jobs that start at the same moment


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["adapter", "dataset", "base_model"])
def test_a_job_that_is_submitted_at_that_moment_is_seen(team: Team, kind: str) -> None:
    """It has locked what it reads, and is not committed yet: the deletion waits for it, and then names it."""
    user, version = first_member(team), make_adapter_version(team)
    held_out = make_dataset_version(team, "held-out")
    targets = {
        "adapter": Target("adapter", version.adapter_id),
        "dataset": Target("dataset", held_out.dataset_id),
        "base_model": Target("base_model", version.adapter.base_model_id),
    }
    refusals: list[Refusal] = []

    def delete() -> None:
        try:
            delete_thing(targets[kind], user, accept_dependents=True)
        except Refusal as refused:
            refusals.append(refused)
        finally:
            connection.close()

    deleting = threading.Thread(target=delete)
    with transaction.atomic():
        choice = DatasetChoice(name="held-out")
        job = submit_evaluation(team, user, adapter_version=version, dataset=choice)
        deleting.start()
        deleting.join(0.2)
        assert deleting.is_alive()
    deleting.join(60)
    assert [refused.code for refused in refusals] == [f"{kind}_in_use"]
    assert job.pk in refusals[0].message


@pytest.mark.django_db(transaction=True)
def test_a_job_that_comes_second_finds_its_input_deleted(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was planned while the dataset was there; the deletion commits before the job is written."""
    user, version = first_member(team), make_dataset_version(team)
    make_base_model(team)
    refusals: list[Refusal] = []
    is_planned = threading.Event()

    def hold(**inputs: Any) -> None:
        is_planned.set()
        hold_inputs(**inputs)

    monkeypatch.setattr(submission, "hold_inputs", hold)

    def submit() -> None:
        try:
            submit_training(team, user, make_spec(), allow_unfit=True)
        except Refusal as refused:
            refusals.append(refused)
        finally:
            connection.close()

    submitting = threading.Thread(target=submit)
    with transaction.atomic():
        delete_thing(Target("dataset", version.dataset_id), user)
        submitting.start()
        assert is_planned.wait(60)
        submitting.join(0.2)
        assert submitting.is_alive()
    submitting.join(60)
    assert [refused.code for refused in refusals] == ["deleted_meanwhile"]
    assert not Job.objects.exists()


def test_a_deleted_job_or_input_is_not_retried(team: Team) -> None:
    user, job = first_member(team), make_ended_job(team)
    deletion = delete_thing(Target("job", job.pk), user)
    assert refusal_of(lambda: retry_job(job.pk, user)).code == "deleted_meanwhile"
    restore_deletion(deletion, user)
    delete_thing(Target("base_model", job.over.pk), user)
    assert refusal_of(lambda: retry_job(job.pk, user)).code == "deleted_meanwhile"
    job.refresh_from_db()
    assert job.state == JobState.FAILED


def test_a_key_of_a_deleted_job_makes_no_second_one(team: Team) -> None:
    user = first_member(team)
    make_base_model(team)
    make_dataset_version(team)
    job = submit_training(team, user, make_spec(), idempotency_key="once", allow_unfit=True)
    cancel_job(job.pk, user)
    delete_thing(Target("job", job.pk), user)
    refused = refusal_of(lambda: submit_training(team, user, make_spec(), idempotency_key="once", allow_unfit=True))
    assert (refused.code, job.pk in refused.message) == ("idempotency_key_reused", True)


def test_inputs_are_held_in_one_statement_each(team: Team, django_assert_num_queries: Any) -> None:
    version = make_adapter_version(team)
    versions = [make_dataset_version(team, name) for name in ("a", "b")]
    with django_assert_num_queries(3):
        hold_inputs(base_model=version.adapter.base_model, versions=versions, adapter_version=version)


# ---- versions


def test_one_version_goes_and_the_others_stay(team: Team) -> None:
    user, first = first_member(team), make_adapter_version(team)
    second = make_adapter_version(team, dataset_version=make_dataset_version(team))
    adapter = first.adapter
    alone = delete_thing(Target("adapter", adapter.pk, 2), user)
    assert find_adapter_version(team, adapter.name, None) == first
    assert refusal_of(lambda: find_adapter_version(team, adapter.name, 2)).code == "unknown_adapter"
    whole = delete_thing(Target("adapter", adapter.pk), user)
    assert (alone.subject, whole.subject) == ("adapter tickets-tiny v2", "adapter tickets-tiny (1 version)")
    third = make_adapter_version(team, dataset_version=make_dataset_version(team))
    assert third.number == 3  # A number means one thing for ever.
    assert list(adapter.versions.alive()) == [third]
    restore_deletion(whole, user)
    assert list(adapter.versions.alive()) == [third, first]
    restore_deletion(alone, user)
    assert list(adapter.versions.alive()) == [third, second, first]


def test_the_same_file_uploaded_again_brings_a_version_back(team: Team, store: ArtifactStore, tmp_path: Path) -> None:
    """From the trash, half-way through a purge, and after it."""
    user, rows = first_member(team), [chat_row()]
    version = make_dataset_version(team, "back", rows)
    target = Target("dataset", version.dataset_id, 1)
    file = write_rows(tmp_path / "rows.jsonl", rows)

    def upload() -> None:
        assert keep_dataset_version(team, user, name="back", file=file, filename="rows.jsonl") == version
        assert find_dataset_version(team, DatasetChoice(name="back")) == version
        assert check_store(store).is_sound

    deletion = delete_thing(target, user)
    upload()
    deletion.refresh_from_db()
    assert (deletion.restored_by, Deletion.objects.restorable().count()) == (user, 0)
    for steps in (begin_purge, lambda key: (begin_purge(key), finish_purge(store, key))):
        deletion = delete_thing(target, user)
        end_grace(deletion)
        steps(deletion.pk)
        upload()
        purge_pass(store)
        assert check_store(store).is_sound
        version.refresh_from_db()
        assert version.first_rows
