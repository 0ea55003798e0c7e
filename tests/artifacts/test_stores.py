"""One contract, two stores: what was put is what is got, whole, verified, and under its key alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_hub.artifacts.manifest import ArtifactError, CorruptArtifact, manifest_digest, manifest_of, verify_files
from finetune_hub.artifacts.store import ArtifactStore, get_folder, open_store, put_folder
from finetune_hub.spec.files import FileEntry


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "sub").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    # Larger than boto3's threshold of 8 MiB, so that the upload goes in parts.
    (folder / "sub" / "model.safetensors").write_bytes(bytes(range(256)) * (9 << 12))
    return folder


def test_a_folder_comes_back_as_it_went(store: ArtifactStore, adapter: Path, tmp_path: Path) -> None:
    entries = manifest_of(adapter)
    put_folder(store, "jobs/a/1/adapter", adapter, entries)

    fetched = get_folder(store, "jobs/a/1/adapter", entries, tmp_path / "fetched")

    assert manifest_of(fetched) == entries
    assert list(store.keys("jobs/a/1")) == [f"jobs/a/1/adapter/{entry.path}" for entry in entries]
    with store.open("jobs/a/1/adapter/adapter_config.json") as file:
        assert file.read() == b"{}"


def test_keys_are_those_below_the_folder_and_not_those_that_begin_alike(store: ArtifactStore, adapter: Path) -> None:
    for prefix in ("jobs/b/1", "jobs/b/10"):
        store.put(f"{prefix}/file", adapter / "adapter_config.json")
    assert list(store.keys("jobs/b/1")) == ["jobs/b/1/file"]


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
    with pytest.raises(ArtifactError, match="names no store"):
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
