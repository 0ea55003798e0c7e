"""What is wrong is said with a code, a place and a remedy, and nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import override_settings

from finetune_hub.catalog.models import DatasetVersion
from finetune_hub.jobs.models import Job
from tests.api.bad_files import BAD_FILES, GOOD_ROW, BadFile
from tests.api.conftest import World


def upload(world: World, content: str, *, name: str = "fresh", filename: str = "rows.jsonl") -> Any:
    file = SimpleUploadedFile(filename, content.encode())
    return world["owner"].post("/api/datasets", {"name": name, "file": file}, format="multipart")


def refusal(response: Any, status: int = 422) -> dict[str, Any]:
    assert response.status_code == status, response.content
    error: dict[str, Any] = response.json()["error"]
    assert error["remedy"]
    return error


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: bad.code)
def test_a_bad_dataset_names_file_and_line(bad: BadFile, world: World) -> None:
    before = DatasetVersion.objects.count()
    error = refusal(upload(world, bad.content, filename=bad.name))
    assert (error["code"], error["field"]) == ("invalid_dataset", "file")
    assert bad.name in error["message"]
    assert error["details"][0]["code"] == bad.code
    assert error["details"][0]["line"] == bad.line
    assert bad.line is None or f"line {bad.line}" in error["message"]
    assert error["details"][0]["remedy"]
    assert DatasetVersion.objects.count() == before


def test_a_dataset_needs_a_usable_name(world: World) -> None:
    assert refusal(upload(world, GOOD_ROW, name="../etc"))["code"] == "invalid_name"


def test_an_upload_needs_a_file(world: World) -> None:
    assert (
        refusal(world["owner"].post("/api/datasets", {"name": "fresh"}, format="multipart"))["code"] == "file_missing"
    )


def test_an_upload_is_no_json(world: World) -> None:
    assert refusal(world["owner"].post("/api/datasets", {"name": "x"}), 415)["code"] == "unsupported_media_type"


@override_settings(DATASET_UPLOAD_MAX_BYTES=-64 * 1024)
def test_an_upload_has_a_limit(world: World) -> None:
    assert refusal(upload(world, GOOD_ROW), 413)["code"] == "upload_too_large"


def test_a_body_has_a_limit(world: World) -> None:
    assert refusal(submit(world, base_model="x" * (1 << 20)), 413)["code"] == "body_too_large"


def test_a_body_in_chunks_is_not_read_as_empty(world: World) -> None:
    response = world["owner"].generic("POST", "/api/jobs", "", headers={"Transfer-Encoding": "chunked"})
    assert refusal(response, 400)["code"] == "invalid_body"


def test_a_form_has_a_limit(world: World) -> None:
    fields = {f"field{number}": "x" for number in range(1001)}
    assert refusal(world["owner"].post("/api/datasets", fields, format="multipart"), 400)["code"] == "invalid_body"


def submit(world: World, headers: dict[str, str] | None = None, **changes: Any) -> Any:
    spec = {"base_model": "tiny", "dataset": {"name": "tickets"}} | changes
    return world["owner"].post("/api/jobs", spec, headers=headers)


def test_an_unknown_field_is_named_and_the_nearest_offered(world: World) -> None:
    before = Job.objects.count()
    error = refusal(submit(world, training={"learning_rte": 1e-4, "epochs": -1}))
    assert error["code"] == "invalid_spec"
    by_place = {tuple(detail["loc"]): detail for detail in error["details"]}
    assert "learning_rate" in by_place["training", "learning_rte"]["remedy"]
    assert "greater than 0" in by_place["training", "epochs"]["message"]
    assert Job.objects.count() == before


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"base_model": "tinny"}, "unknown_base_model"),
        ({"dataset": {"name": "tickts"}}, "unknown_dataset"),
        ({"dataset": {"name": "tickets", "version": 99}}, "unknown_dataset"),
        ({"dataset": {"path": "../../etc/passwd"}}, "path_not_allowed"),
        ({"datasets": [{"name": "tickets"}, {"name": "tickets"}], "dataset": None}, "invalid_spec"),
        ({"base_model": 7}, "invalid_spec"),
        ({"runtime": {"gpus": 2}}, "too_many_gpus"),
    ],
)
def test_a_spec_that_cannot_be_run_is_refused(changes: dict[str, Any], code: str, world: World) -> None:
    error = refusal(submit(world, **changes))
    assert error["code"] == code
    assert error["field"]


def test_the_nearest_base_model_is_offered(world: World) -> None:
    assert "'tiny'" in refusal(submit(world, base_model="tinny"))["remedy"]


def test_the_same_key_again_is_the_same_job(world: World) -> None:
    headers = {"Idempotency-Key": "run-7"}
    first, second = submit(world, headers), submit(world, headers)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]


def test_a_key_is_not_used_for_another_spec(world: World) -> None:
    headers = {"Idempotency-Key": "run-7"}
    submit(world, headers)
    error = refusal(submit(world, headers, training={"epochs": 2}), 409)
    assert (error["code"], error["field"]) == ("idempotency_key_reused", "Idempotency-Key")


def test_a_key_has_a_limit(world: World) -> None:
    assert refusal(submit(world, {"Idempotency-Key": "x" * 256}))["code"] == "invalid_idempotency_key"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "no-such-model"}, "unknown_base_model"),
        ({"name": "mine", "source": "folder:../secrets"}, "invalid_path"),
        ({"name": "mine", "source": "ftp:x"}, "unknown_source"),
        ({"name": "mine", "src": "folder:x"}, "invalid_request"),
        ({}, "invalid_request"),
    ],
)
def test_an_import_that_cannot_be_done_is_refused(body: dict[str, Any], code: str, world: World) -> None:
    assert refusal(world["owner"].post("/api/base-models", body))["code"] == code


@pytest.mark.parametrize("path", ["../config.json", "a/../../b", "%2e%2e/config.json", "/etc/passwd"])
def test_a_path_with_dots_is_refused(path: str, world: World) -> None:
    address = f"/api/adapters/{world.version.adapter_id}/versions/1/files/{path}"
    assert refusal(world["owner"].get(address))["code"] == "invalid_path"


def test_an_unknown_file_lists_the_known_ones(world: World) -> None:
    error = refusal(world["owner"].get(f"/api/adapters/{world.version.adapter_id}/versions/1/files/nope"), 404)
    assert error["code"] == "unknown_file"
    assert "adapter_model.safetensors" in error["remedy"]


@pytest.mark.parametrize("text", ["{oops", "[1, 2]", '"x"', "null", '{"base_model": "\\u0000", "datasets": []}'])
def test_a_body_that_is_no_object_is_refused(text: str, world: World) -> None:
    response = world["owner"].post("/api/jobs", text, content_type="application/json")
    assert response.status_code in {400, 422}
    assert refusal(response, response.status_code)["code"] in {"invalid_body", "invalid_spec"}


@pytest.mark.parametrize("cursor", ["x", "cD1ub25zZW5zZQ==", "\u00e4"])
def test_a_foreign_cursor_is_refused(cursor: str, world: World) -> None:
    response = world["owner"].get("/api/jobs", {"cursor": cursor})
    assert refusal(response)["code"] == "invalid_cursor"


def test_an_address_with_a_nul_is_refused(world: World) -> None:
    preview = f"/api/datasets/{world.job.dataset_versions.get().dataset_id}/versions/1/preview"
    for address in (f"{preview}?base_model=%00", "/api/jobs?cursor=a%00b", "/api/jobs?%00=1"):
        assert refusal(world["owner"].get(address))["code"] == "invalid_request"
    assert refusal(world["owner"].get("/api/workers/gpu-1/devices/%00/0"), 404)["code"] == "not_found"


@pytest.mark.parametrize("after", ["x", "-1", "9" * 30, "\u00b2"])
def test_after_is_a_number(after: str, world: World) -> None:
    for part in ("events", "metrics"):
        response = world["owner"].get(f"/api/jobs/{world.job.pk}/{part}", {"after": after})
        assert refusal(response)["field"] == "after"


def test_an_address_that_does_not_exist_answers_in_json(world: World) -> None:
    for address in ("/api/nope", "/api/jobs/", "/api/jobs/UPPER-1", "/api/jobs/%00", "/api/"):
        assert refusal(world["owner"].get(address), 404)["code"] == "not_found"
    assert refusal(world["owner"].delete("/api/jobs"), 405)["code"] == "method_not_allowed"


def test_a_failure_of_the_service_tells_its_request_id_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr("finetune_hub.api.views.jobs.job_detail", fail)
    response = world["owner"].get(f"/api/jobs/{world.job.pk}")
    error = refusal(response, 500)
    assert error["code"] == "internal"
    assert response["x-request-id"] in error["message"]
    assert b"secret" not in response.content
    assert "the secret" in caplog.text


def test_a_file_that_the_store_lost_is_no_half_download(world: World) -> None:
    world.version.files.create(path="lost.bin", size_bytes=1, sha256="0" * 64)
    response = world["owner"].get(f"/api/adapters/{world.version.adapter_id}/versions/1/files/lost.bin")
    assert refusal(response, 503)["code"] == "artifact_unavailable"
