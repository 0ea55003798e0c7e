"""A server that never ends: it sends a byte now and then, which no timeout of a single read notices."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_hub.spec.events import EXIT_FAILED
from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.run import HuggingFaceFetchRun, UrlFetchRun
from tests.fake_huggingface import Repository, running_huggingface

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.fixture(params=["in the head", "in the body"])
def dripping_port(request: pytest.FixtureRequest) -> Iterator[int]:
    """A server that sends ten bytes a second, from its first byte or behind a head."""
    ended = threading.Event()

    def drip(client: socket.socket) -> None:
        with client:
            if request.param == "in the body":
                client.sendall(HEAD)
            else:
                client.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not ended.wait(0.1):
                try:
                    client.sendall(b"x")
                except OSError:
                    return

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=[client], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        ended.set()


def test_a_dripping_server_is_left_after_the_total_time(dripping_port: int, tmp_path: Path) -> None:
    run = UrlFetchRun(
        url=f"http://127.0.0.1:{dripping_port}/rows.jsonl",
        file_name="rows.jsonl",
        folder=tmp_path / "downloads",
        max_bytes=1 << 30,
        max_seconds=1,
        allow_private=True,
        output_dir=tmp_path / "output",
    )
    begin = time.monotonic()
    ended = run_fetcher("workers.fetch_url", run)
    assert ended.returncode == EXIT_FAILED, ended.stderr
    assert time.monotonic() - begin < 30
    last = json.loads((run.output_dir / "events.jsonl").read_text().splitlines()[-1])
    assert last["type"] == "failure"
    assert "not complete after 1s" in last["message"]


@pytest.mark.parametrize("names_its_size", [True, False])
def test_a_base_model_is_bounded_whatever_its_size_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names_its_size: bool
) -> None:
    published = tmp_path / "published"
    published.mkdir()
    (published / "model.safetensors").write_bytes(bytes(20_000))
    (published / "config.json").write_text("{}")
    reference = HuggingFaceReference.parse("team/large")
    assert reference is not None
    if not names_its_size:
        monkeypatch.setattr(Repository, "sibling", lambda repository, path: {"rfilename": path.name})
    with running_huggingface() as server:
        server.repositories["models/team/large"] = Repository(published)
        run = HuggingFaceFetchRun(
            kind="model",
            reference=reference,
            folder=tmp_path / "downloads",
            max_bytes=10_000,
            output_dir=tmp_path / "output",
        )
        ended = run_fetcher("workers.fetch_huggingface", run, {"HF_ENDPOINT": server.url})
    assert ended.returncode == EXIT_FAILED, ended.stderr
    assert "larger than 10 kB together" in ended.stderr
    assert not (run.folder / "model.safetensors").exists()


def run_fetcher(
    module: str, run: UrlFetchRun | HuggingFaceFetchRun, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    run.output_dir.mkdir()
    document = run.output_dir / "run.json"
    document.write_text(run.model_dump_json())
    command = [sys.executable, "-m", module, "fetch", str(document)]
    return subprocess.run(
        command, env=os.environ | (environment or {}), timeout=60, capture_output=True, text=True, check=False
    )
