"""One contract, two stores: what was put is what is got, whole, verified, and under its key alone."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.exceptions import EndpointConnectionError

from finetune_hub.artifacts.manifest import ArtifactError, CorruptArtifact, manifest_digest, manifest_of, verify_files
from finetune_hub.artifacts.s3 import S3Store
from finetune_hub.artifacts.store import ArtifactStore, get_folder, open_store, put_folder
from finetune_hub.spec.files import FileEntry


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    # Larger than PART_BYTES, so that the upload goes in parts.
    (folder / "sub" / "model.safetensors").write_bytes(bytes(range(256)) * (35 << 12))
    return folder


def test_a_folder_comes_back_as_it_went(store: ArtifactStore, adapter: Path, tmp_path: Path) -> None:
    entries = manifest_of(adapter)
    put_folder(store, "jobs/a/1/adapter", adapter, entries)

    fetched = get_folder(store, "jobs/a/1/adapter", entries, tmp_path / "fetched")

    assert manifest_of(fetched) == entries
    assert list(store.keys("jobs/a/1")) == [f"jobs/a/1/adapter/{entry.path}" for entry in entries]
    with store.open("jobs/a/1/adapter/adapter_config.json") as file:
        assert file.read() == b"{}"


def test_a_part_of_a_file_is_read_from_its_first_byte_on(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "letters").write_bytes(b"abcdefgh")
    (tmp_path / "empty").touch()
    for name in ("letters", "empty"):
        store.put(f"jobs/e/{name}", tmp_path / name)
    for options, expected in (({}, b"abcdefgh"), ({"start": 3}, b"defgh"), ({"start": 2, "length": 4}, b"cdef")):
        with store.open("jobs/e/letters", **options) as file:
            assert file.read(len(expected)) == expected
    with store.open("jobs/e/empty", length=0) as file:
        assert file.read() == b""


def test_keys_are_those_below_the_folder_and_not_those_that_begin_alike(store: ArtifactStore, adapter: Path) -> None:
    for prefix in ("jobs/b/1", "jobs/b/10"):
        store.put(f"{prefix}/file", adapter / "adapter_config.json")
    assert list(store.keys("jobs/b/1")) == ["jobs/b/1/file"]


def test_keys_by_age_are_by_when_they_were_put(store: ArtifactStore, adapter: Path) -> None:
    source = adapter / "adapter_config.json"
    os.utime(source, (0, 0))  # However old the file is that was put.
    store.put("jobs/d/file", source)
    assert list(store.keys("jobs/d", older_than=timedelta(minutes=1))) == []
    time.sleep(1.1)  # S3 tells whole seconds.
    assert list(store.keys("jobs/d", older_than=timedelta(0))) == ["jobs/d/file"]


def test_deleting_is_final_and_may_be_repeated(store: ArtifactStore, adapter: Path, tmp_path: Path) -> None:
    store.put("jobs/c/file", adapter / "adapter_config.json")
    store.delete("jobs/c/file")
    store.delete("jobs/c/file")
    with pytest.raises(ArtifactError, match="jobs/c/file"):
        store.get("jobs/c/file", tmp_path / "file")
    with pytest.raises(ArtifactError, match="jobs/c/file"):
        store.open("jobs/c/file")
    assert list(tmp_path.glob(".file*")) == []


@pytest.mark.parametrize("key", ["../outside", "/absolute", "a/../b", "a//b", ""])
def test_a_key_stays_inside_the_store(store: ArtifactStore, adapter: Path, key: str) -> None:
    with pytest.raises(ValueError, match="path"):
        store.put(key, adapter / "adapter_config.json")


def test_a_changed_byte_is_noticed(store: ArtifactStore, adapter: Path, tmp_path: Path) -> None:
    entries = manifest_of(adapter)
    put_folder(store, "jobs/d", adapter, entries)
    (tmp_path / "other").write_text("[]")
    store.put("jobs/d/adapter_config.json", tmp_path / "other")
    with pytest.raises(CorruptArtifact, match=r"adapter_config\.json does not match"):
        get_folder(store, "jobs/d", entries, tmp_path / "fetched")


def test_a_stored_file_outlives_its_source(store: ArtifactStore, adapter: Path, tmp_path: Path) -> None:
    source = adapter / "adapter_config.json"
    store.put("jobs/e/file", source)
    source.unlink()
    store.get("jobs/e/file", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "{}"


def test_a_wrong_secret_says_what_to_check(s3_url: str, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    with pytest.raises(ArtifactError, match="Check ARTIFACT_URL, the credentials and the bucket"):
        open_store(s3_url).put("jobs/f", adapter / "adapter_config.json")


@pytest.mark.parametrize("url", ["file://relative", "s3:///no-bucket", "ftp://host/x", "", "/folder"])
def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(ArtifactError, match="is not the URL of a store"):
        open_store(url)


def test_a_manifest_names_what_is_wrong(adapter: Path) -> None:
    entries = manifest_of(adapter)
    verify_files(adapter, entries)
    with pytest.raises(CorruptArtifact, match=r"bytes instead of"):
        verify_files(adapter, [entries[0].model_copy(update={"size_bytes": 3})])
    with pytest.raises(CorruptArtifact, match="absent is missing"):
        verify_files(adapter, [FileEntry(path="absent", size_bytes=0, sha256="0" * 64)])
    assert manifest_digest(entries) == manifest_digest(reversed(entries))
    assert manifest_digest(entries) != manifest_digest(entries[:1])


def test_an_upload_that_broke_off_is_gone_on_with(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_hub.artifacts.s3.PART_BYTES", 5 << 20)
    monkeypatch.setattr("finetune_hub.artifacts.s3.PARTS_AT_ONCE", 1)
    file = tmp_path / "weights"
    file.write_bytes(b"".join(bytes([number]) * (5 << 20) for number in range(3)) + b"the end")
    store = S3Store.from_url(s3_url)
    sent: list[int] = []
    send = store.client.upload_part

    def break_off(**part: Any) -> Any:
        if len(sent) == 2:
            raise EndpointConnectionError(endpoint_url="http://store")
        sent.append(part["PartNumber"])
        return send(**part)

    monkeypatch.setattr(store.client, "upload_part", break_off)
    with pytest.raises(ArtifactError, match="Could not write jobs/g"):
        store.put("jobs/g", file)
    assert sent == [1, 2]
    with pytest.raises(ArtifactError):  # Nobody sees half a file.
        store.open("jobs/g")

    sent.clear()
    monkeypatch.setattr(store.client, "upload_part", lambda **part: sent.append(part["PartNumber"]) or send(**part))
    with file.open("r+b") as changed:  # A part that is not what was sent is sent again.
        changed.write(b"\xff")
    store.put("jobs/g", file)
    assert sent == [1, 3, 4]
    store.get("jobs/g", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    assert store.client.list_multipart_uploads(Bucket="hub").get("Uploads", []) == []


def test_a_download_address_needs_no_credentials_and_ends(s3_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("the bytes")
    store = open_store(s3_url)
    store.put("jobs/h/file", tmp_path / "file")
    url = store.download_url("jobs/h/file", filename="model ü.txt", lifetime=timedelta(minutes=1))
    assert url is not None
    answer = httpx.get(url)
    assert answer.text == "the bytes"
    assert httpx.get(url.replace("jobs/h/file", "jobs/h/other")).status_code == 403
    assert httpx.get(url.partition("?")[0]).status_code == 403
    brief = store.download_url("jobs/h/file", filename="x", lifetime=timedelta(seconds=1))
    assert brief is not None
    time.sleep(2.1)
    assert httpx.get(brief).status_code == 403
    assert open_store((tmp_path / "store").as_uri()).download_url("a", filename="a", lifetime=timedelta(1)) is None
