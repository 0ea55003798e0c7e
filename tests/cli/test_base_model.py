"""What a recipe may call its base model: found, fetched once, pinned, and refused with a way out."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.tiny_models import make_tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Speaks as much of the Hugging Face hub as a download needs; one model, `team/tiny`, at one commit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        files = [{"rfilename": file.name} for file in self.server.folder.iterdir()]
        if path.startswith("/api/models/team/tiny/tree/"):
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in self.server.folder.iterdir()
            ]
            self.answer(json.dumps(tree).encode())
        elif path in ("/api/models/team/tiny", *(f"/api/models/team/tiny/revision/{r}" for r in ("main", COMMIT))):
            self.answer(json.dumps({"id": "team/tiny", "sha": COMMIT, "siblings": files}).encode())
        elif path.startswith(f"/team/tiny/resolve/{COMMIT}/"):
            file = self.server.folder / path.rpartition("/")[2]
            if self.command == "GET":
                self.server.asked.append(file.name)
            self.answer(file.read_bytes())
        else:
            self.answer(b"{}", status=404, headers={"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer(self, content: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        for name, value in ({"ETag": etag, "X-Repo-Commit": COMMIT} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def fake_hub(tmp_path: Path) -> Iterator[FakeHub]:
    folder = make_tiny_model(tmp_path / "published")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    with FakeHub(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


FIND = """
import sys
from pathlib import Path
from finetune_hub.cli.base_model import find_base_model
from finetune_hub.cli.client import HubError
try:
    print(find_base_model(sys.argv[1], relative_to=Path.cwd()))
except HubError as error:
    sys.exit(f"{error.code}: {error.message} {error.remedy}")
"""


def find(name: str, folder: Path, endpoint: str = "http://127.0.0.1:9") -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its environment once."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(folder / "home"),
        "FINETUNE_HUB_CACHE": str(folder / "cache"),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": "hf_secret",
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-c", FIND, name]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_a_model_of_the_hub_is_fetched_once_at_one_commit(fake_hub: FakeHub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{fake_hub.server_port}"
    answer = find("team/tiny@main", tmp_path, endpoint)

    assert answer.returncode == 0, answer.stderr
    folder = Path(answer.stdout.strip())
    assert folder == tmp_path / "cache" / "models" / f"team--tiny@{COMMIT[:12]}"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    assert COMMIT in answer.stderr
    assert "Bearer hf_secret" in fake_hub.tokens
    assert "hf_secret" not in answer.stdout + answer.stderr
    fake_hub.asked.clear()
    assert find("team/tiny", tmp_path, endpoint).stdout == answer.stdout
    assert fake_hub.asked == []

    unknown = find("team/none", tmp_path, endpoint)
    assert "unknown_base_model: The hub has no team/none" in unknown.stderr


def test_a_hub_out_of_reach_is_named(tmp_path: Path) -> None:
    answer = find("team/tiny", tmp_path)
    assert answer.returncode == 1
    assert "fetch_failed: team/tiny could not be fetched from the hub" in answer.stderr
    assert "HF_ENDPOINT" in answer.stderr
    assert "hf_secret" not in answer.stderr


def test_folders_and_known_names_need_no_network(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    assert find("base", tmp_path).stdout.strip() == str(base)
    cached = tmp_path / "cache" / "models" / "smollm2-135m-instruct"
    shutil.copytree(base, cached)
    assert find("smollm2-135m-instruct", tmp_path).stdout.strip() == str(cached)
    assert "unknown_base_model: There is no folder" in find("smollm9", tmp_path).stderr
