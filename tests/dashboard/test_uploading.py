"""Uploads: a good file becomes a version, and a bad one a table of what to fix."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone

from finetune_hub.accounts.models import Membership, Role
from finetune_hub.catalog.models import Dataset, DatasetVersion
from finetune_hub.jobs.kinds.dataset_import import import_dataset
from finetune_hub.jobs.models import Job, JobState
from tests.dashboard.conftest import World
from tests.factories import make_team

GOOD = b'{"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}\n'


def upload(world: World, content: bytes, name: str = "sums", **fields: Any) -> HttpResponse:
    file = SimpleUploadedFile("rows.jsonl", content)
    return world["owner"].post(reverse("dataset-upload"), {"name": name, "file": file, **fields})


def test_a_good_file_becomes_a_version(world: World) -> None:
    response = upload(world, GOOD * 3)
    version = DatasetVersion.objects.get(dataset__name="sums")
    assert response["Location"] == reverse("dataset-version", args=[version.dataset_id, 1])
    assert (version.row_count, version.created_by, version.dataset.team) == (3, world.alice, world.team)


def test_the_same_content_again_is_the_same_version(world: World) -> None:
    assert upload(world, GOOD)["Location"] == upload(world, GOOD)["Location"]
    assert upload(world, GOOD * 2)["Location"].endswith("/2/")


@pytest.mark.parametrize("limit_bytes", [0, 10_000_000])
def test_a_file_is_read_from_memory_and_from_disk(world: World, settings: LazySettings, limit_bytes: int) -> None:
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = limit_bytes
    assert upload(world, GOOD * 3).status_code == 302


def test_errors_are_told_by_line_with_a_remedy(world: World) -> None:
    response = upload(world, GOOD + b'not json\n{"messages": [{"role": "user", "content": "hi"}]}\n')
    page = response.content.decode()
    assert response.status_code == 422
    assert [defect["line"] for defect in response.context["defects"]] == [2, 3]
    assert "rows.jsonl, line 2" in page
    assert "Put exactly one JSON object on the line." in page
    assert "no_assistant_turn" in page
    assert not Dataset.objects.filter(name="sums").exists()


def test_good_rows_go_on_and_the_others_can_be_downloaded(world: World) -> None:
    content = GOOD * 2 + b"not json\n"
    response = upload(world, content, quarantine="on")
    version = DatasetVersion.objects.get(dataset__name="sums")
    assert (version.row_count, version.rejected_count) == (2, 1)
    page = world["owner"].get(response["Location"])
    assert "2 rows, and 1 set aside" in page.content.decode()

    def download(name: str) -> bytes:
        answer = world["owner"].get(reverse("dataset-file", args=[version.dataset_id, 1, name]))
        return b"".join(answer.streaming_content)

    (aside,) = download("quarantine.jsonl").splitlines()
    assert json.loads(aside) | {"errors": []} == {"line": 3, "errors": [], "row": "not json"}
    assert download("original") == content
    assert len(download("rows.jsonl").splitlines()) == 2
    missing = world["owner"].get(reverse("dataset-file", args=[version.dataset_id, 1, "nothing"]))
    assert missing.status_code == 404


def test_nothing_is_kept_where_no_row_is_good(world: World) -> None:
    assert upload(world, b"not json\n", quarantine="on").status_code == 422


def test_unknown_columns_are_mapped_on_the_page(world: World) -> None:
    content = b'{"frage": "2 + 2?", "antwort": "4", "id": 1}\n'
    response = upload(world, content)
    assert response.status_code == 422
    assert [column for _, column, _ in response.context["form"].column_choices()] == ["antwort", "frage", "id"]
    parts = {"part:frage": "user", "part:antwort": "user", "part:id": ""}
    assert "Two columns" in upload(world, content, **parts).content.decode()
    assert upload(world, content, **parts | {"part:antwort": "assistant"}).status_code == 302
    version = DatasetVersion.objects.get(dataset__name="sums")
    assert [message["content"] for message in version.first_rows[0]["messages"]] == ["2 + 2?", "4"]


def test_the_page_says_what_the_file_was_taken_for(world: World) -> None:
    file = SimpleUploadedFile("sums.csv.gz", gzip.compress(b"question,answer\n2 + 2?,4\n"))
    response = world["owner"].post(reverse("dataset-upload"), {"name": "sums", "file": file})
    page = world["owner"].get(response["Location"]).content.decode()
    assert "Questions and answers in CSV, compressed with gzip: it has" in page


def test_a_large_file_comes_in_parts_ahead_of_its_form(world: World) -> None:
    content = GOOD * 3
    about = {"file_name": "rows.jsonl", "size_bytes": len(content), "fingerprint": "rows.jsonl:1"}
    begun = world["owner"].post(reverse("upload-begin"), about).json()

    def send(caller: str, offset: int, data: bytes) -> HttpResponse:
        address = f"{reverse('upload-part', args=[begun['id']])}?offset={offset}"
        return world[caller].post(address, data, content_type="application/octet-stream")

    def make_version() -> HttpResponse:
        return world["owner"].post(reverse("dataset-upload"), {"name": "sums", "upload": begun["id"]})

    assert send("teammate", 0, content).status_code == 404
    assert send("owner", 0, content[:50]).json() == {"received_bytes": 50}
    assert "50 of" in make_version().content.decode()
    assert send("owner", 90, content).status_code == 409
    assert send("owner", 0, content[:50]).json() == {"received_bytes": 50}
    assert world["owner"].post(reverse("upload-begin"), about).json() == begun | {"received_bytes": 50}
    send("owner", 50, content[50:])
    assert make_version().status_code == 302
    assert DatasetVersion.objects.get(dataset__name="sums").row_count == 3
    assert make_version().status_code == 404
    assert world["owner"].post(reverse("upload-begin"), about | {"size_bytes": 0}).status_code == 422


def test_a_form_without_a_file(world: World) -> None:
    response = world["owner"].post(reverse("dataset-upload"), {"name": "sums"})
    assert response.context["form"].errors["file"] == ["Choose a file."]


def test_an_empty_file(world: World) -> None:
    assert "has no rows" in upload(world, b"").content.decode().lower()


def test_a_bad_name_is_told_beside_its_field(world: World) -> None:
    response = upload(world, GOOD, name="No Spaces")
    assert "is not a valid name" in response.context["form"].errors["name"][0]


def test_a_file_over_the_limit(world: World, settings: LazySettings) -> None:
    settings.DATASET_UPLOAD_MAX_BYTES = 10
    assert "larger than 10" in upload(world, GOOD).context["form"].errors["file"][0]


def test_what_rows_hold_is_shown_as_text(world: World) -> None:
    row = GOOD.replace(b"2 + 2?", b"<script>alert(1)</script>")
    page = world["owner"].get(upload(world, row)["Location"]).content.decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page


def test_who_submits_in_several_teams_chooses_one(world: World) -> None:
    other = make_team(world.alice)
    assert "team" in upload(world, GOOD).context["form"].errors
    upload(world, GOOD, team=other.slug)
    assert Dataset.objects.get(name="sums").team == other
    foreign = make_team()
    assert "team" in upload(world, GOOD, team=foreign.slug).context["form"].errors


def test_a_team_in_which_one_only_looks_is_no_choice(world: World) -> None:
    Membership.objects.create(team=make_team(), user=world.alice, role=Role.VIEWER)
    assert upload(world, GOOD).status_code == 302


def test_unknown_columns_of_a_fetched_dataset_are_asked_for(world: World) -> None:
    job = import_dataset(world.team, world.alice, name="foreign", source="hf:team/foreign", on_error="quarantine")
    Job.objects.filter(pk=job.pk).update(
        state=JobState.FAILED,
        finished_at=timezone.now(),
        failure_class="bad_data",
        failure_message="Which?",
        result={"unknown_columns": ["frage", "antwort"]},
    )
    asked = f"{reverse('dataset-upload')}?map={job.pk}"
    assert asked in world["owner"].get(reverse("job", args=[job.pk])).content.decode()
    assert 'name="part:frage"' not in world["outsider"].get(asked).content.decode()

    form = world["owner"].get(asked).context["fetch_form"]
    sent = {name: form[name].value() for name in ("name", "source", "quarantine")}
    assert sent == {"name": "foreign", "source": "hf:team/foreign", "quarantine": True}
    parts = {"part:frage": "user", "part:antwort": "assistant"}
    assert [name for name, *_ in form.column_choices()] == list(parts)
    assert world["owner"].post(reverse("dataset-import"), sent | parts).status_code == 302
    again = Job.objects.filter(kind="dataset").latest("created_at")
    assert again.spec == job.spec | {"mapping": {"frage": "user", "antwort": "assistant"}}
