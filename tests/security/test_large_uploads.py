"""Uploads in parts hold what is promised, 2 and 64 GiB, and what their senders leave behind is collected."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from finetune_hub.accounts.actions import create_token
from finetune_hub.catalog import uploads
from finetune_hub.catalog.models import Upload
from finetune_hub.catalog.uploads import path_of, uploads_folder
from finetune_hub.machine import full_disk
from finetune_hub.operations.retention import tidy_pass
from tests.factories import first_member, make_member, make_team

pytestmark = pytest.mark.django_db

GIB = 2**30
LAST = b"the last bytes"


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def large_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_disk.shutil, "disk_usage", lambda _: Disk(1 << 50, 0, 1 << 50))


@pytest.fixture
def team() -> Any:
    team = make_team()
    make_member(team)
    return team


@pytest.fixture
def api(team: Any) -> Client:
    _, token = create_token(first_member(team), team, name="test")
    return Client(headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def browser(team: Any) -> Client:
    browser = Client()
    browser.force_login(first_member(team))
    return browser


def send_over_api(api: Client, upload_id: str, offset: int, data: bytes) -> Any:
    return api.put(f"/api/uploads/{upload_id}?offset={offset}", data, content_type="application/octet-stream")


def begin(api: Client, size_bytes: int, name: str = "rows.jsonl", fingerprint: str = "mine") -> Upload:
    body = {"file_name": name, "size_bytes": size_bytes, "fingerprint": fingerprint}
    answer = api.post("/api/uploads", body, content_type="application/json")
    assert answer.status_code == 201, answer.content
    return Upload.objects.get(pk=answer.json()["id"])


def receive_all_but(upload: Upload, missing_bytes: int) -> int:
    """What was received so far, as a hole that takes no room on the disk."""
    uploads_folder().mkdir(exist_ok=True)
    with path_of(upload).open("wb") as file:
        file.truncate(upload.size_bytes - missing_bytes)
    return upload.size_bytes - missing_bytes


@pytest.mark.parametrize(("name", "size_bytes"), [("rows.jsonl", 2 * GIB), ("model.gguf", 64 * GIB)])
def test_the_last_part_of_what_is_promised(api: Client, browser: Client, name: str, size_bytes: int) -> None:
    upload = begin(api, size_bytes, name)
    offset = receive_all_but(upload, len(LAST))
    part = send_over_api(api, upload.pk, offset, LAST)
    assert (part.status_code, part.json()["received_bytes"]) == (200, size_bytes), part.content
    assert path_of(upload).stat().st_blocks * 512 < 1 << 20, "no gigabytes were written"
    offset = receive_all_but(upload, len(LAST))
    address = f"/datasets/uploads/{upload.pk}/parts?offset={offset}"
    by_page = browser.post(address, LAST, content_type="application/octet-stream")
    assert by_page.json() == {"received_bytes": size_bytes}
    with path_of(upload).open("rb") as file:
        file.seek(offset)
        assert file.read() == LAST
    path_of(upload).unlink()


def test_no_more_than_is_promised(api: Client) -> None:
    for name, size_bytes in (("rows.jsonl", 2 * GIB + 1), ("model.gguf", 64 * GIB + 1)):
        body = {"file_name": name, "size_bytes": size_bytes, "fingerprint": "mine"}
        answer = api.post("/api/uploads", body, content_type="application/json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "upload_too_large")


def aged(path: Path, days: float = 2) -> Path:
    then = time.time() - days * 86_400
    os.utime(path, (then, then))
    return path


def a_day_later(api: Client) -> None:
    tidy_pass()


def when_somebody_begins_another(api: Client) -> None:
    begin(api, 10, fingerprint="another")


@pytest.mark.parametrize("collect", [a_day_later, when_somebody_begins_another])
def test_what_was_left_behind_is_collected(api: Client, collect: Callable[[Client], None]) -> None:
    left, going_on = begin(api, 10, fingerprint="left"), begin(api, 10, fingerprint="going on")
    for upload in (left, going_on):
        send_over_api(api, upload.pk, 0, b"12345")
    Upload.objects.update(created_at=timezone.now() - timedelta(days=2))
    aged(path_of(left))
    of_nobody = uploads_folder() / "up-of-nobody"
    of_nobody.write_bytes(b"1")
    broken = settings.HOME / "tmp" / "x.upload"
    broken.parent.mkdir(exist_ok=True)
    broken.write_bytes(b"1")
    fresh = broken.with_name("fresh.upload")
    fresh.write_bytes(b"1")
    workshop = settings.HOME / "tmp" / "tmpdir"
    workshop.mkdir()
    (workshop / "rows.jsonl").write_bytes(b"1")
    for path in (of_nobody, broken, workshop / "rows.jsonl", workshop):
        aged(path)
    collect(api)
    assert not any(path.exists() for path in (path_of(left), of_nobody, broken, workshop))
    assert not Upload.objects.filter(pk=left.pk).exists()
    assert fresh.exists(), "its request may still run"
    assert path_of(going_on).read_bytes() == b"12345", "a part came within a day"
    fresh.unlink()


def test_a_folder_somebody_writes_in_stays(api: Client) -> None:
    workshop = settings.HOME / "tmp" / "busy"
    workshop.mkdir(parents=True)
    (workshop / "rows.jsonl").write_bytes(b"1")
    aged(workshop)
    uploads.collect_uploads()
    assert workshop.exists()
    aged(workshop / "rows.jsonl")
    aged(workshop)
    uploads.collect_uploads()
    assert not workshop.exists()
