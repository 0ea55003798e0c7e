"""Versions compared, split, searched and deleted: through actions, API and page, which are the same."""

from __future__ import annotations

import pytest
from django.conf import settings
from django.db import DatabaseError, transaction
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Role, Team, User
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog import compare
from finetune_hub.catalog.choices import find_dataset_version
from finetune_hub.catalog.dataset_downloads import find_download
from finetune_hub.catalog.local_files import dataset_file
from finetune_hub.catalog.models import DatasetVersion, Deletion
from finetune_hub.catalog.search import find_rows
from finetune_hub.catalog.split import split_version
from finetune_hub.data.comparison import find_overlap
from finetune_hub.operations.deletion.actions import delete_thing, finish_purge
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice
from tests.factories import chat_row, first_member, make_dataset_version, make_job, make_team, make_user

ROWS = [chat_row(f"Question {number // 2}?", f"Ä{number}") for number in range(40)]


@pytest.fixture
def team(db: None) -> Team:
    return make_team(make_user(), role=Role.ADMIN)


@pytest.fixture
def version(team: Team) -> DatasetVersion:
    return make_dataset_version(team, rows=ROWS)


@pytest.fixture
def api(team: Team) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {create_token(first_member(team), team, name='test')[1]}")
    return client


def delete_version(version: DatasetVersion, user: User) -> Deletion:
    return delete_thing(Target("dataset", version.dataset_id, version.number), user)


def test_a_split_is_two_datasets_with_lineage(version: DatasetVersion, team: Team) -> None:
    user = first_member(team)
    train, held_out = split_version(version, user, fraction=0.2, seed=7)
    assert (train.row_count, held_out.row_count) == (32, 8)
    assert (train.reference, held_out.reference) == ("tickets-train:1", "tickets-held-out:1")
    assert held_out.parent == train.parent == version
    assert held_out.origin == "0.2 held out, seed 7"
    overlap = find_overlap(dataset_file(held_out), dataset_file(train))
    assert overlap.same == 0
    assert split_version(version, user, fraction=0.2, seed=7) == (train, held_out)
    assert split_version(version, user, fraction=0.2, seed=8)[1].number == 2
    alike = make_dataset_version(team, "alike", rows=[chat_row()] * 4)
    with pytest.raises(Refusal, match="cannot be split"):
        split_version(alike, user, fraction=0.5, seed=7)


def test_rows_are_found_by_their_words(version: DatasetVersion) -> None:
    assert [row.number for row in find_rows(version, "question 3?").rows] == [7, 8]
    assert [row.number for row in find_rows(version, "ä39").rows] == [40]
    first = find_rows(version, limit=30)
    rest = find_rows(version, after=first.next or 0)
    assert [row.number for row in (*first.rows, *rest.rows)] == list(range(1, 41))
    assert rest.next is None
    quoted = chat_row('say "hi"\nplease')
    assert find_rows(make_dataset_version(version.dataset.team, "quoted", rows=[quoted]), '"HI"\npl').rows


def test_a_deleted_version_is_a_tombstone_until_it_comes_back(version: DatasetVersion, team: Team) -> None:
    key, user = dataset_file(version), first_member(team)
    with pytest.raises(Refusal, match="no dataset named 'absent'"):
        find_dataset_version(team, DatasetChoice(name="absent"))
    deletion = delete_version(version, user)
    version.refresh_from_db()
    assert (version.shown_rows, version.deleted_by, len(version.sha256)) == ([], user, 64)
    for use in (lambda: find_rows(version), lambda: find_download(version, "rows.jsonl"),
                lambda: compare.compare_versions(version, version)):  # fmt: skip
        with pytest.raises(Refusal) as refused:
            use()
        assert refused.value.code == "dataset_deleted"
    with pytest.raises(Refusal, match="no dataset named"):
        find_dataset_version(team, DatasetChoice(name="tickets"))
    assert delete_version(version, user) == deletion
    assert make_dataset_version(team, rows=ROWS) == version
    version.refresh_from_db()
    assert version.deleted_at is None
    assert version.first_rows
    assert key.is_file()


def test_the_bytes_go_once_nobody_can_restore_them(team: Team, version: DatasetVersion) -> None:
    paths = [dataset_file(version).with_name(key.rpartition("/")[2]) for key in version.keys]
    assert len(paths) == 2
    assert all(path.is_file() for path in paths)
    copy = settings.HOME / "cache" / "datasets" / version.artifact_key.rpartition("/")[2]  # As a hub over S3 keeps one.
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text("{}")
    deletion = delete_version(version, first_member(team))
    assert all(path.is_file() for path in paths)
    Deletion.objects.filter(pk=deletion.pk).update(purged_at=Now())
    finish_purge(shared_store(settings.ARTIFACT_URL), deletion.pk)
    assert not any(path.is_file() for path in paths)
    version.refresh_from_db()
    assert (version.first_rows, copy.exists()) == ([], False)
    with pytest.raises(ArtifactError):
        shared_store(settings.ARTIFACT_URL).open(version.artifact_key)


def test_what_a_job_reads_is_not_deleted(version: DatasetVersion, team: Team) -> None:
    job = make_job(team, dataset_version=version)
    with pytest.raises(Refusal, match=job.pk):
        delete_version(version, first_member(team))


def test_a_version_does_not_change(version: DatasetVersion) -> None:
    for changes in ({"row_count": 3}, {"first_rows": []}, {"sha256": "0" * 64}):
        with pytest.raises(DatabaseError, match="immutable"), transaction.atomic():
            DatasetVersion.objects.filter(pk=version.pk).update(**changes)


def test_large_versions_are_not_compared_here(version: DatasetVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "MAX_ROWS", 10)
    with pytest.raises(Refusal, match="limit for this is 10"):
        compare.compare_versions(version, version)


def test_over_the_api(version: DatasetVersion, team: Team, api: APIClient) -> None:
    make_dataset_version(team, rows=[*ROWS[1:], chat_row("New?")])
    address = f"/api/datasets/{version.dataset_id}/versions"
    found = api.get(f"{address}/2/comparison", {"with": "tickets:1"}).json()
    assert (found["diff"]["added"], found["diff"]["removed"], found["diff"]["unchanged"]) == (1, 1, 39)
    assert (found["overlap"]["rows"], found["overlap"]["same"]) == (40, 39)
    for wrong, code in (("", "invalid_request"), ("tickets:x", "invalid_request"), ("tickets:9", "unknown_dataset")):
        assert api.get(f"{address}/2/comparison", {"with": wrong}).json()["error"]["code"] == code
    parts = api.post(f"{address}/1/split", {"fraction": 0.1, "seed": 3}).json()
    assert (parts["held_out"]["split_from"], parts["held_out"]["row_count"]) == ("tickets:1", 4)
    assert api.get(f"{address}/1/rows", {"q": "question 19"}).json()["rows"][0]["number"] == 39
    assert api.delete(f"{address}/1").json()["deleted_at"]
    assert api.get(f"{address}/1/rows").json()["error"]["code"] == "dataset_deleted"
    assert api.get(f"{address}/1").json()["first_rows"] == []


def test_on_the_page(version: DatasetVersion, team: Team) -> None:
    client = Client()
    client.force_login(first_member(team))
    second = make_dataset_version(team, rows=[*ROWS[1:], chat_row("New?")])

    def address(name: str, number: int = 2) -> str:
        return reverse(name, args=[version.dataset_id, number])

    compared = client.get(address("dataset-comparison"), {"other": version.pk}).content.decode()
    assert "1 added, 1 removed; 39 unchanged." in compared
    assert "Row 6" in client.get(address("dataset-rows"), {"q": "question 3?"}).content.decode()
    response = client.post(address("dataset-split"), {"percent": "10", "seed": "7"}, follow=True)
    page = response.content.decode()
    assert "tickets-held-out v1 has the 4 held-out rows" in page
    assert "Split off" in page
    assert client.post(address("dataset-split"), {"percent": "x"}).status_code == 422
    page = client.post(address("dataset-delete"), follow=True).content.decode()
    assert "The rows of tickets v2 are deleted." in page
    assert second.sha256 in page
    assert client.get(reverse("dataset-file", args=[version.dataset_id, 2, "rows.jsonl"])).status_code == 410
    client.post(address("dataset-delete", 1))
    assert ">tickets</a>" not in client.get(reverse("datasets")).content.decode()
