"""What the routes answer when all is well."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import StreamingHttpResponse
from django.test import AsyncRequestFactory
from pytest_django import DjangoAssertNumQueries

from finetune_hub.accounts.actions import create_token
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.jobs.models import AttemptState, Job
from finetune_hub.registry.downloads import FileChunks, streaming_response
from tests.api.bad_files import GOOD_ROW
from tests.api.conftest import World, make_point
from tests.factories import (
    make_adapter_version,
    make_attempt,
    make_base_model,
    make_dataset_version,
    make_job,
    make_member,
    make_worker,
)


def read(response: Any) -> bytes:
    assert response.status_code == 200
    return b"".join(response.streaming_content)


def test_known_content_is_no_new_version(world: World) -> None:
    def push(content: str) -> Any:
        file = SimpleUploadedFile("rows.jsonl", content.encode())
        return world["owner"].post("/api/datasets", {"name": "fresh", "file": file}, format="multipart")

    answers = [push(content) for content in (GOOD_ROW, GOOD_ROW, f"{GOOD_ROW}\n{GOOD_ROW}", GOOD_ROW)]
    assert [answer.status_code for answer in answers] == [201, 200, 201, 200]
    assert [answer.json()["number"] for answer in answers] == [1, 1, 2, 1]
    versions = world["viewer"].get(f"/api/datasets/{answers[0].json()['id']}").json()["versions"]
    assert [(version["number"], version["row_count"]) for version in versions] == [(2, 2), (1, 1)]
    kept = json.dumps(json.loads(GOOD_ROW), separators=(",", ":")) + "\n"
    assert versions[1]["sha256"] == hashlib.sha256(kept.encode()).hexdigest()


def test_an_import_names_its_job(world: World) -> None:
    answer = world["owner"].post("/api/base-models", {"name": "smollm2-135m-instruct"}).json()
    job = world["owner"].get(f"/api/jobs/{answer['job_id']}").json()
    assert (job["kind"], job["base_model"], answer["state"]) == ("import", answer["name"], "importing")


def test_a_job_shows_what_it_reads_and_who_runs_it(world: World) -> None:
    job = world["owner"].get(f"/api/jobs/{world.job.pk}").json()
    assert job["datasets"][0]["name"] == "tickets"
    assert job["attempts"][0]["worker"] == "gpu-1"
    assert job["attempts"][0]["devices"] == []
    assert (job["published"], job["failure"], job["spec"]["base_model"]) == (None, None, "tiny")


def test_a_waiting_job_is_cancelled_at_once(world: World) -> None:
    address = f"/api/jobs/{world.job.pk}/cancel"
    answers = [world["owner"].post(address).json()["state"] for _ in range(2)]
    assert answers == ["cancelled", "cancelled"]
    events = world["owner"].get(f"/api/jobs/{world.job.pk}/events").json()
    assert [event["message"] for event in events["data"]] == ["Cancelled before it ran."]
    assert world["owner"].get(f"/api/jobs/{world.job.pk}/events?after=1").json() == {"data": [], "next": None}


def test_the_newest_attempt_wins_a_repeated_step(world: World) -> None:
    again = make_attempt(world.job, state=AttemptState.LOST, finished_at=world.job.created_at)
    make_point(again.pk, step=3, loss=0.25)
    points = world["owner"].get(f"/api/jobs/{world.job.pk}/metrics?after=1").json()["data"]
    assert [(point["step"], point["loss"]) for point in points] == [(2, 1.0), (3, 0.25)]


def test_long_histories_come_in_parts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_hub.api.views.jobs.MAX_ROWS", 2)
    steps, after = [], 0
    while after is not None:
        part = world["owner"].get(f"/api/jobs/{world.job.pk}/metrics?after={after}").json()
        steps.append([point["step"] for point in part["data"]])
        after = part["next"]
    assert steps == [[1, 2], [3]]


def test_the_log_is_the_newest_attempts(world: World) -> None:
    assert world["owner"].get(f"/api/jobs/{world.job.pk}/log").json() == {"attempt": 1, "text": "the last words"}
    fresh = make_job(world.team)
    assert world["owner"].get(f"/api/jobs/{fresh.pk}/log").json() == {"attempt": None, "text": ""}


def test_an_evaluation_takes_an_adapter_by_id_or_name(world: World) -> None:
    for adapter in (world.version.adapter_id, "tickets-tiny"):
        body = {"kind": "evaluate", "adapter": adapter, "adapter_version": 1, "dataset": "tickets", "max_rows": 3}
        job = world["owner"].post("/api/evaluations", body).json()
        assert (job["kind"], job["spec"]["max_rows"]) == ("evaluate", 3)
        assert job["evaluates"] == {"adapter_id": world.version.adapter_id, "name": "tickets-tiny", "version": 1}


def test_an_evaluation_needs_one_known_adapter(world: World) -> None:
    make_adapter_version(world.team, base_model=make_base_model(world.team, "other"))
    for adapter, number, code in (
        ("tickets-tiny", None, "ambiguous_adapter"),
        ("nope", None, "unknown_adapter"),
        (world.version.adapter_id, 9, "unknown_adapter"),
    ):
        body = {"adapter": adapter, "adapter_version": number, "dataset": "tickets"}
        response = world["owner"].post("/api/evaluations", body)
        assert (response.status_code, response.json()["error"]["code"]) == (422, code)


def test_a_version_shows_files_lineage_and_where_it_lies(world: World) -> None:
    version = world["viewer"].get(f"/api/adapters/{world.version.adapter_id}/versions/1").json()
    assert [file["path"] for file in version["files"]] == ["adapter_config.json", "adapter_model.safetensors"]
    assert {(origin["kind"], origin["name"], origin["version"]) for origin in version["lineage"]} == {
        ("base_model", "tiny", None),
        ("dataset", "tickets", 1),
    }
    assert version["artifact_url"].endswith(f"/artifacts/{world.version.artifact_prefix}")
    assert version["verification"]["tolerance"] == 1e-4


def test_a_version_and_its_job_tell_what_can_serve_it(world: World) -> None:
    version = world["viewer"].get(f"/api/adapters/{world.version.adapter_id}/versions/1").json()
    job = world["viewer"].get(f"/api/jobs/{world.job.pk}").json()
    answers = {found["program"]: (found["answer"], found["export_format"]) for found in version["compatibility"]}
    assert answers["vLLM"] == ("yes", None)
    assert answers["llama.cpp"] == ("export", "gguf-adapter")
    assert job["compatibility"] == version["compatibility"]


def test_a_file_comes_whole(world: World) -> None:
    address = f"/api/adapters/{world.version.adapter_id}/versions/1/files/adapter_model.safetensors"
    response = world["viewer"].get(address)
    content = read(response)
    assert response["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert int(response["Content-Length"]) == len(content) == 4096


def test_the_archive_holds_every_file(world: World) -> None:
    response = world["viewer"].get(f"/api/adapters/{world.version.adapter_id}/versions/1/archive")
    content = read(response)
    assert int(response["Content-Length"]) == len(content)
    assert response["Content-Type"] == "application/zip"
    assert 'filename="tickets-tiny-v1.zip"' in response["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        for entry in world.version.manifest():
            stored = archive.read(f"tickets-tiny-v1/{entry.path}")
            assert hashlib.sha256(stored).hexdigest() == entry.sha256


def test_downloads_stream_under_asgi(world: World) -> None:
    """Django would gather a plain iterator whole in memory, with a warning, which fails this test."""
    request = AsyncRequestFactory().get("/")
    chunks = FileChunks(io.BytesIO(b"one" + b"two"), 6)

    async def receive() -> list[bytes]:
        response = streaming_response(request, lambda: chunks, filename="x", size_bytes=6)
        assert isinstance(response, StreamingHttpResponse)
        return [part async for part in response]

    assert async_to_sync(receive)() == [b"onetwo"]


def test_a_stored_file_that_is_too_short_breaks_the_download() -> None:
    assert list(FileChunks(io.BytesIO(b"longer than that"), 6)) == [b"longer"]
    with pytest.raises(ArtifactError, match="3 bytes are missing"):
        list(FileChunks(io.BytesIO(b"six"), 6))


def test_lists_page_by_cursor(world: World) -> None:
    for _ in range(4):
        make_job(world.team)
    expected = list(Job.objects.order_by("-created_at", "-pk").values_list("pk", flat=True))
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 2}
    while query.get("cursor", "first"):
        page = world["owner"].get("/api/jobs", query).json()
        seen += [job["id"] for job in page["data"]]
        query["cursor"] = page["next"]
        if len(seen) == 2:
            make_job(world.team)  # A row added meanwhile shows on none of the later pages.
    assert seen == expected


def test_lists_filter_by_name(world: World) -> None:
    make_dataset_version(world.team, "others", rows=[{"messages": [{"role": "assistant", "content": "x"}]}])
    found = world["owner"].get("/api/datasets", {"name": "others"}).json()["data"]
    assert [dataset["name"] for dataset in found] == ["others"]
    assert world["owner"].get("/api/datasets", {"name": "absent"}).json()["data"] == []


@pytest.mark.parametrize("address", ["datasets", "base-models", "jobs", "adapters", "workers", "members", "tokens"])
def test_a_longer_list_needs_no_more_queries(
    address: str, world: World, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    def count() -> int:
        with django_assert_num_queries(6 if address == "workers" else 5, exact=False) as captured:
            page = world["owner"].get(f"/api/{address}").json()
        rows.append(len(page["data"]))
        return len(captured)

    rows: list[int] = []
    world["owner"].get("/api/me")  # The first use of a token is written down.
    before = count()
    for number in range(3):
        make_worker(f"more-{number}", devices=2)
        make_member(world.team)
        create_token(world.alice, world.team, name=f"more-{number}")
        base_model = make_base_model(world.team, f"more-{number}")
        version = make_dataset_version(world.team, f"more-{number}")
        make_job(world.team, base_model=base_model, dataset_version=version)
        make_adapter_version(world.team, f"more-{number}", base_model=base_model, dataset_version=version)
    assert count() == before
    assert rows[1] == rows[0] + 3


def test_a_worker_tells_its_health(world: World) -> None:
    worker = world["viewer"].get("/api/workers").json()["data"][0]
    assert (worker["name"], worker["health"], len(worker["devices"])) == ("gpu-1", "healthy", 1)


def test_me_is_the_token(world: World) -> None:
    me = world["viewer"].get("/api/me").json()
    assert (me["user"], me["role"], me["team"]) == ("vera", "viewer", world.team.slug)


def test_json_comes_whatever_is_accepted(world: World) -> None:
    assert world["owner"].get("/api/me", headers={"Accept": "text/html"}).status_code == 200
