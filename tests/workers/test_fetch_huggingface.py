"""Fetching from Hugging Face, on loopback: pinned, resumed after a cancel, and refused with a way out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.run import HuggingFaceFetchRun
from tests.fake_huggingface import COMMIT, TOKEN, Asked, FakeHuggingFace, Repository, running_huggingface

WEIGHTS = bytes(range(256)) * 100_000
CHUNK_BYTES = 10 << 20  # What huggingface_hub reads before it writes.


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHuggingFace]:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    (folder / "consolidated.safetensors").write_bytes(WEIGHTS)
    for name in ("config.json", "tokenizer.json", "modeling_evil.py"):
        (folder / name).write_text("{}")
    with running_huggingface() as server:
        server.repositories["models/team/tiny"] = Repository(folder)
        yield server


class Fetching:
    """The fetcher as a worker starts it, in a process of its own."""

    def __init__(self, hub: FakeHuggingFace, home: Path, reference: str, token: str | None = None) -> None:
        parsed = HuggingFaceReference.parse(reference)
        assert parsed is not None
        self.folder, self.output = home / "downloads", home / "output"
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir(parents=True)
        token_file = None
        if token is not None:
            token_file = home / "token"
            token_file.write_text(token)
        run = HuggingFaceFetchRun(
            kind="model", reference=parsed, folder=self.folder, token_file=token_file, output_dir=self.output
        )
        document = home / "fetch-huggingface.json"
        document.write_text(run.model_dump_json())
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": ":".join(sys.path),
            "HOME": str(home),
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": "hf_of_the_machine",  # It belongs to no team.
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.fetch_huggingface", "fetch-huggingface", str(document)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def events(self, type_: str) -> list[dict[str, object]]:
        lines = (self.output / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["type"] == type_]

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_file()}


def test_what_is_needed_comes_at_one_commit(hub: FakeHuggingFace, tmp_path: Path) -> None:
    fetching = Fetching(hub, tmp_path, "team/tiny@main")
    assert fetching.end() == (0, "")
    assert fetching.files() == {".commit", "config.json", "model.safetensors", "tokenizer.json"}
    assert (fetching.folder / "model.safetensors").read_bytes() == WEIGHTS
    [resolved] = fetching.events("resolved")
    assert (resolved["commit"], resolved["license"], resolved["access"]) == (COMMIT, "mit", "open")
    assert fetching.events("progress")[-1]["done"] == len(WEIGHTS) // 10**6
    assert hub.tokens == {None}


def test_a_cancelled_download_goes_on_where_it_was(hub: FakeHuggingFace, tmp_path: Path) -> None:
    hub.stops_at = len(WEIGHTS) // 2
    first = Fetching(hub, tmp_path, "team/tiny")
    partial = first.folder / "model.safetensors.part"
    give_up = time.monotonic() + 60
    while not (partial.is_file() and partial.stat().st_size >= CHUNK_BYTES):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    os.kill(first.process.pid, signal.SIGTERM)  # As the supervisor does when a job is cancelled.
    assert first.end()[0] == -signal.SIGTERM
    had = partial.stat().st_size

    hub.stops_at = None
    hub.asked.clear()
    second = Fetching(hub, tmp_path, "team/tiny")
    assert second.end()[0] == 0
    assert (second.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert Asked("model.safetensors", had) in hub.asked
    assert "config.json" not in [asked.name for asked in hub.asked]


def test_another_commit_throws_away_what_was_there(hub: FakeHuggingFace, tmp_path: Path) -> None:
    assert Fetching(hub, tmp_path, "team/tiny").end()[0] == 0
    hub.repositories["models/team/tiny"].commit = "f" * 40
    hub.asked.clear()
    assert Fetching(hub, tmp_path, "team/tiny").end()[0] == 0
    assert Asked("model.safetensors", 0) in hub.asked


def test_other_bytes_are_thrown_away(hub: FakeHuggingFace, tmp_path: Path) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / ".commit").write_text(COMMIT)
    (tmp_path / "downloads" / "model.safetensors.part").write_bytes(b"nothing of it")
    fetching = Fetching(hub, tmp_path, "team/tiny")
    status, said = fetching.end()
    assert (status, fetching.events("failure")[0]["failure_class"]) == (10, "infrastructure")
    assert "SHA-256" in said
    assert Fetching(hub, tmp_path, "team/tiny").end()[0] == 0


@pytest.mark.parametrize(
    ("reference", "words", "way_out"),
    [
        ("team/none", "has no model team/none", "Check the id"),
        ("team/tiny@v9", "has no revision 'v9'", "branch, tag or commit"),
        ("team/pickled", "pickled weights (pytorch_model.bin)", "@refs/pr/N"),
        ("team/gguf", "has no safetensors", "`hf:team/gguf:q4.gguf`"),
        ("team/gguf:q8.gguf", "has no GGUF file 'q8.gguf'", "`hf:team/gguf:q4.gguf`"),
        ("team/adapter", "is an adapter", "the base model of the adapter"),
        ("team/gated", "team/gated is gated", "huggingface-token set"),
    ],
)
def test_a_refusal_says_the_way_out(
    hub: FakeHuggingFace, tmp_path: Path, reference: str, words: str, way_out: str
) -> None:
    for name, files in {
        "pickled": ["config.json", "pytorch_model.bin"],
        "gguf": ["q4.gguf"],
        "adapter": ["adapter_config.json", "adapter_model.safetensors"],
        "gated": ["config.json", "model.safetensors"],
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).write_bytes(b"{}")
        hub.repositories[f"models/team/{name}"] = Repository(folder, gated=name == "gated")
    fetching = Fetching(hub, tmp_path, reference)
    assert fetching.end()[0] == 10
    [failure] = fetching.events("failure")
    assert failure["failure_class"] == "bad_config"
    assert words in str(failure["message"])
    assert way_out in str(failure["remedy"])


def test_a_token_opens_what_is_gated_and_is_never_written_down(hub: FakeHuggingFace, tmp_path: Path) -> None:
    hub.repositories["models/team/tiny"].gated = True
    fetching = Fetching(hub, tmp_path, "team/tiny", token=TOKEN)
    assert fetching.end() == (0, "")
    assert fetching.events("resolved")[0]["access"] == "gated"
    assert not any(TOKEN.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    wrong = Fetching(hub, tmp_path, "team/tiny", token="hf_expired")
    status, said = wrong.end()
    assert status == 10
    assert "rejects the token (401)" in said
    assert "hf_expired" not in said


def test_one_gguf_file_of_a_repository(hub: FakeHuggingFace, tmp_path: Path) -> None:
    (tmp_path / "published" / "q4.gguf").write_bytes(b"GGUF")
    fetching = Fetching(hub, tmp_path, "team/tiny:q4.gguf")
    assert fetching.end()[0] == 0
    assert fetching.files() == {".commit", "q4.gguf"}
