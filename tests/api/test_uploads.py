"""Uploads in parts: every byte arrives once, whatever breaks in between."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from finetune_hub.catalog import uploads
from finetune_hub.catalog.models import DatasetVersion, Upload
from tests.api.bad_files import GOOD_ROW
from tests.api.conftest import World

CONTENT = (GOOD_ROW + "\n").encode() * 20
FINGERPRINT = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


def begin(world: World, **changes: Any) -> Any:
    body = {"file_name": "large.jsonl", "size_bytes": len(CONTENT), "fingerprint": FINGERPRINT}
    return world["owner"].post("/api/uploads", body | changes)


def send(world: World, upload_id: str, offset: int, data: bytes) -> Any:
    address = f"/api/uploads/{upload_id}?offset={offset}"
    return world["owner"].put(address, data, content_type="application/octet-stream")


def make_version(world: World, upload_id: str) -> Any:
    return world["owner"].post("/api/datasets", {"name": "large", "upload": upload_id}, format="multipart")


def test_parts_become_a_version(world: World) -> None:
    upload_id = begin(world).json()["id"]
    assert send(world, upload_id, 0, CONTENT[:700]).json()["received_bytes"] == 700
    assert make_version(world, upload_id).json()["error"]["code"] == "upload_unfinished"
    assert begin(world).json() == {
        "id": upload_id,
        "file_name": "large.jsonl",
        "size_bytes": len(CONTENT),
        "received_bytes": 700,
    }
    assert send(world, upload_id, 0, CONTENT[:700]).json()["received_bytes"] == 700  # Its answer was lost.
    wrong = send(world, upload_id, 900, CONTENT[900:])
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "wrong_offset")
    beyond = send(world, upload_id, 700, CONTENT)
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (413, "upload_too_large")
    assert send(world, upload_id, 700, CONTENT[700:]).json()["received_bytes"] == len(CONTENT)
    answer = make_version(world, upload_id)
    assert (answer.status_code, answer.json()["row_count"]) == (201, 20)
    assert DatasetVersion.objects.get(dataset__name="large").file_name == "large.jsonl"
    assert not Upload.objects.exists()
    assert make_version(world, upload_id).status_code == 404


def test_a_refused_file_need_not_be_sent_again(world: World) -> None:
    content = b"{oops\n" + CONTENT
    upload_id = begin(world, size_bytes=len(content), fingerprint="mine").json()["id"]
    send(world, upload_id, 0, content)
    assert make_version(world, upload_id).json()["error"]["code"] == "invalid_dataset"
    body = {"name": "large", "upload": upload_id, "on_error": "quarantine"}
    assert world["owner"].post("/api/datasets", body, format="multipart").json()["rejected_count"] == 1


def test_a_damaged_file_is_refused(world: World) -> None:
    upload_id = begin(world).json()["id"]
    send(world, upload_id, 0, CONTENT[:-2] + b" \n")
    assert make_version(world, upload_id).json()["error"]["code"] == "upload_damaged"
    assert not Upload.objects.exists()


def test_limits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert begin(world, size_bytes=2**40).json()["error"]["code"] == "upload_too_large"
    monkeypatch.setattr(uploads, "MAX_OPEN", 1)
    upload_id = begin(world).json()["id"]
    assert begin(world, fingerprint="another").json()["error"]["code"] == "too_many_uploads"
    monkeypatch.setattr("finetune_hub.api.views.uploads.MAX_PART_BYTES", 10)
    assert send(world, upload_id, 0, b"x" * 11).json()["error"]["code"] == "body_too_large"
    Upload.objects.update(created_at=timezone.now() - timedelta(days=2))
    assert begin(world, fingerprint="another").status_code == 201  # The old one is forgotten.
    assert Upload.objects.count() == 1
