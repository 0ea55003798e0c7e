"""A disk without room is said in words, on the page, over the API and in the terminal, and nothing is left behind."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from finetune_hub.accounts.actions import create_token
from finetune_hub.artifacts.local import LocalStore
from finetune_hub.catalog.models import Dataset, Upload
from finetune_hub.catalog.uploads import path_of
from finetune_hub.cli.connection import HubError, refusal_of, through_outages
from finetune_hub.machine import full_disk
from finetune_hub.spec.run import UrlFetchRun
from finetune_hub.upload_files import FileInHome
from tests.factories import first_member, make_team
from workers import fetch_url

pytestmark = pytest.mark.django_db

ROW = b'{"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}\n'
FULL = [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded")]


@pytest.fixture
def team() -> Any:
    return make_team()


@pytest.fixture
def api(team: Any) -> Client:
    user = first_member(team)
    _, token = create_token(user, team, name="test")
    return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def browser(team: Any) -> Client:
    browser = Client(raise_request_exception=False)
    browser.force_login(first_member(team))
    return browser


def push(client: Client, address: str = "/api/datasets") -> Any:
    return client.post(address, {"name": "rows", "file": SimpleUploadedFile("rows.jsonl", ROW * 3)})


def left_behind() -> list[Path]:
    folders = (settings.HOME / "tmp", settings.HOME / "uploads", settings.HOME / "artifacts")
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def check(answer: Any, before: list[Path]) -> None:
    assert answer.status_code == 507, answer.content[:500]
    text = answer.content.decode()
    assert "no space" in text
    assert "free space" in text
    assert left_behind() == before
    assert not Dataset.objects.filter(name="rows").exists()


@pytest.mark.parametrize("full", FULL, ids=["disk", "quota"])
class TestUpload:
    def test_while_the_form_is_read(
        self, api: Client, browser: Client, full: OSError, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write(*_: Any) -> int:
            raise full

        before = left_behind()
        monkeypatch.setattr(FileInHome, "write", property(lambda _: write))
        check(push(api), before)
        check(push(browser, "/datasets/upload/"), before)

    def test_while_the_rows_are_stored(
        self, api: Client, browser: Client, full: OSError, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real_put, before = LocalStore.put, left_behind()

        def put(store: LocalStore, key: str, source: Path) -> None:
            if key.endswith(".original"):
                raise full
            real_put(store, key, source)

        monkeypatch.setattr(LocalStore, "put", put)
        check(push(api), before)
        check(push(browser, "/datasets/upload/"), before)

    def test_in_the_middle_of_a_part(self, api: Client, browser: Client, full: OSError, monkeypatch: Any) -> None:
        body = {"file_name": "a.jsonl", "size_bytes": 100, "fingerprint": "f"}
        upload = Upload.objects.get(pk=api.post("/api/uploads", body, content_type="application/json").json()["id"])
        address, raw = f"/api/uploads/{upload.pk}?offset=", "application/octet-stream"
        assert api.put(f"{address}0", b"1" * 10, content_type=raw).status_code == 200

        class Full(io.FileIO):
            def write(self, data: Any) -> int:
                if len(data) < 50:
                    raise full
                return super().write(bytes(data[:20]))

        monkeypatch.setattr("finetune_hub.catalog.uploads.Path.open", lambda path, *_, **__: Full(path, "ab"))
        answer = api.put(f"{address}10", b"2" * 60, content_type=raw)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
        page = f"/datasets/uploads/{upload.pk}/parts?offset=10"
        answer = browser.post(page, b"2" * 60, content_type=raw)
        assert (answer.status_code, "no space" in answer.json()["message"]) == (507, True)
        monkeypatch.undo()
        assert path_of(upload).read_bytes() == b"1" * 10, "the part that broke is not there in part"
        assert api.put(f"{address}10", b"3" * 90, content_type=raw).json()["received_bytes"] == 100


def test_a_download_of_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = UrlFetchRun(
        url="https://example.org/x",
        file_name="x",
        folder=tmp_path,
        max_bytes=1,
        allow_private=False,
        output_dir=tmp_path / "output",
    )
    run.output_dir.mkdir()
    tries = []

    def read(_run: UrlFetchRun, partial: Path) -> None:
        tries.append(partial.write_bytes(b"1"))
        raise FULL[0]

    monkeypatch.setattr(fetch_url, "read", read)
    with pytest.raises(fetch_url.UrlRefused, match=r"no space for the file.* free space"):
        fetch_url.fetch(run)
    assert len(tries) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["output"]


def test_before_the_first_part(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 99}))
    body = {"file_name": "a.jsonl", "size_bytes": 100, "fingerprint": "f"}
    answer = api.post("/api/uploads", body, content_type="application/json")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_full")
    assert not Upload.objects.exists()


def test_the_command_line_says_it_and_does_not_try_again(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 99}))
    body = {"file_name": "a.jsonl", "size_bytes": 100, "fingerprint": "f"}
    answer = api.post("/api/uploads", body, content_type="application/json")
    tries = []

    def send() -> None:
        tries.append(1)
        raise refusal_of(httpx.Response(answer.status_code, content=answer.content))

    with pytest.raises(HubError, match=r"no space for this file.* free space"):
        through_outages(0.01)(send)
    assert len(tries) == 1
