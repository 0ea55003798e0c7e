"""Deletion on pages: foreseen, confirmed, found in the trash, restored."""

from __future__ import annotations

from django.db.models.functions import Now
from django.urls import reverse

from finetune_hub.catalog.aliases import set_alias
from finetune_hub.catalog.models import Deletion
from finetune_hub.jobs.models import Attempt, Job, JobState
from tests.dashboard.conftest import World
from tests.factories import make_adapter_version, make_dataset_version


def end_job(world: World) -> None:
    Attempt.objects.update(state="cancelled", finished_at=Now())
    Job.objects.filter(pk=world.job.pk).update(state=JobState.CANCELLED, finished_at=Now())


def test_an_adapter_is_deleted_after_a_look_and_restored_from_the_trash(world: World) -> None:
    bob, adapter = world["teammate"], world.version.adapter
    detail = reverse("adapter-version", args=[adapter.pk, 1])
    for deletion in ("adapter-deletion", "adapter-version-deletion"):
        assert reverse(deletion, args=[adapter.pk, *([1] if "version" in deletion else [])]) in (
            bob.get(detail).content.decode()
        )
    url = reverse("adapter-version-deletion", args=[adapter.pk, 1])
    page = bob.get(url).content.decode()
    assert "Delete adapter tickets-tiny v1?" in page
    assert "It can be restored for 7 days. After that, 2 files (4.1 kB) are deleted." in page
    assert not Deletion.objects.exists()
    page = bob.post(url, follow=True).content.decode()
    assert "Deleted adapter tickets-tiny v1. It can be restored for 7 days from the trash of" in page
    assert detail not in page
    assert bob.get(detail).status_code == 404
    assert bob.post(url).status_code == 410
    trash = reverse("team-trash", args=[world.team.slug])
    assert trash in bob.get(reverse("team")).content.decode()
    restore = reverse("restore", args=[Deletion.objects.get().pk])
    assert restore not in world["viewer"].get(trash).content.decode()
    assert "adapter tickets-tiny v1" in world["viewer"].get(trash).content.decode()
    assert restore in bob.get(trash).content.decode()
    assert "Restored adapter tickets-tiny v1." in bob.post(restore, follow=True).content.decode()
    assert bob.get(detail).status_code == 200
    assert "The trash is empty" in bob.get(trash).content.decode()
    record = bob.get(reverse("team")).content.decode()
    for sentence in ("deleted adapter tickets-tiny v1, 4.1 kB", "restored adapter tickets-tiny v1, 4.1 kB"):
        assert sentence in record


def test_what_runs_is_in_the_way_and_has_no_button(world: World) -> None:
    version = world.job.dataset_versions.get()
    addresses = [
        reverse("dataset-deletion", args=[version.dataset_id]),
        reverse("dataset-version-deletion", args=[version.dataset_id, version.number]),
        reverse("base-model-deletion", args=[world.job.base_model_id]),
        reverse("job-deletion", args=[world.job.pk]),
    ]
    for url in addresses:
        page = world["owner"].get(url).content.decode()
        assert "In use" in page
        assert reverse("job", args=[world.job.pk]) in page
        assert 'class="danger"' not in page
        refused = world["owner"].post(url)
        assert refused.status_code == 409
        assert world.job.pk in refused.content.decode()
    assert not Deletion.objects.exists()
    assert addresses[-1] not in world["owner"].get(reverse("job", args=[world.job.pk])).content.decode()
    end_job(world)
    assert addresses[-1] in world["owner"].get(reverse("job", args=[world.job.pk])).content.decode()


def test_only_what_was_shown_to_stop_working_is_accepted(world: World) -> None:
    """Somebody publishes over the base model between the look and the click."""
    end_job(world)
    alice, model = world["owner"], world.job.over
    url = reverse("base-model-deletion", args=[model.pk])
    assert url in alice.get(reverse("base-models")).content.decode()
    assert f'value="adapter {world.version.adapter_id} tickets-tiny v1"' in alice.get(url).content.decode()
    shown = [f"adapter {world.version.adapter_id} tickets-tiny v1"]
    make_adapter_version(world.team, dataset_version=make_dataset_version(world.team))
    set_alias(world.team, world.alice, alias="gpt-4o", base_model=model.name)
    refused = alice.post(url, {"accepted": shown})
    assert refused.status_code == 409
    assert "tickets-tiny v2" in refused.content.decode()
    assert not Deletion.objects.exists()
    shown += [f"adapter {world.version.adapter_id} tickets-tiny v2", "alias gpt-4o gpt-4o"]
    assert alice.post(url, {"accepted": shown}).status_code == 302
    page = alice.get(reverse("adapter", args=[world.version.adapter_id])).content.decode()
    assert "was deleted. The adapter can only be downloaded" in page
    assert reverse("job-new-of-kind", args=["evaluate"]) not in page
    assert "gpt-4o" not in alice.get(reverse("base-models")).content.decode()


def test_a_deleted_job_is_nowhere_and_what_it_published_stays(world: World) -> None:
    end_job(world)
    alice, detail = world["owner"], reverse("job", args=[world.job.pk])
    alice.post(reverse("job-deletion", args=[world.job.pk]))
    gone = alice.get(detail)  # By a link of an e-mail, or of the usage.
    assert (gone.status_code, "it can be restored from the trash of" in gone.content.decode()) == (410, True)
    assert world["outsider"].get(detail).status_code == 404
    for name in ("home", "jobs"):
        assert detail not in alice.get(reverse(name)).content.decode()
    assert alice.get(reverse("adapter", args=[world.version.adapter_id])).status_code == 200


def test_a_tombstone_says_until_when_it_can_be_restored(world: World) -> None:
    end_job(world)
    alice, version = world["owner"], world.job.dataset_versions.get()
    alice.post(reverse("dataset-deletion", args=[version.dataset_id]))
    page = alice.get(reverse("dataset-version", args=[version.dataset_id, version.number])).content.decode()
    assert "It was deleted as dataset tickets (" in page
    restore = reverse("restore", args=[Deletion.objects.get().pk])
    assert restore in page
    assert restore not in (
        world["viewer"].get(reverse("dataset-version", args=[version.dataset_id, version.number])).content.decode()
    )
    alice.post(restore)
    assert "It was deleted as" not in alice.get(reverse("dataset", args=[version.dataset_id])).content.decode()
