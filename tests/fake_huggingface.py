"""Hugging Face on loopback: as much of it as its own client asks when it looks up and downloads."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretsecretsecret"
LARGE_FILES = (".safetensors", ".gguf", ".parquet")  # Of these Hugging Face knows a SHA-256.


@dataclass
class Repository:
    """What lies at one name, at one commit, which `main` is."""

    folder: Path
    commit: str = COMMIT
    gated: bool = False
    private: bool = False
    license: str | None = "mit"

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())

    def info(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "sha": self.commit,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "cardData": {"license": self.license} if self.license else None,
            "siblings": [self.sibling(path) for path in self.files()],
        }

    def sibling(self, path: Path) -> dict[str, object]:
        content = path.read_bytes()
        found: dict[str, object] = {"rfilename": path.relative_to(self.folder).as_posix(), "size": len(content)}
        if path.suffix in LARGE_FILES:
            sha256 = hashlib.sha256(content).hexdigest()
            found["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return found


@dataclass
class Asked:
    """A file that somebody downloaded, and from which byte on."""

    name: str
    start: int


class FakeHuggingFace(ThreadingHTTPServer):
    """Repositories by `models/owner/name` or `datasets/owner/name`.

    Attributes:
        stops_at: A larger file is sent up to this byte, and the rest only when `go_on` is set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        self.tokens: set[str | None] = set()
        self.stops_at: int | None = None
        self.go_on = threading.Event()
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: FakeHuggingFace
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
        if parts[0] == "api":
            self.answer_info("/".join(parts[1:4]), "/".join(parts[5:]) or "main")
        else:
            key, rest = (
                ("/".join(parts[:3]), parts[3:])
                if parts[0] == "datasets"
                else ("/".join(["models", *parts[:2]]), parts[2:])
            )
            self.answer_file(key, rest[1], "/".join(rest[2:]))

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer_info(self, key: str, revision: str) -> None:
        if repository := self.find(key, revision):
            self.answer(json.dumps(repository.info(key.partition("/")[2])).encode())

    def answer_file(self, key: str, revision: str, path: str) -> None:
        repository = self.find(key, revision)
        if repository is None:
            return
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(b"{}", status=403, headers={"X-Error-Code": "GatedRepo"})
            return
        content = (repository.folder / path).read_bytes()
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        if self.command == "GET":
            self.server.asked.append(Asked(path, start))
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if asked else {}
        self.answer(content[start:], status=206 if asked else 200, headers=headers, start=start)

    def find(self, key: str, revision: str) -> Repository | None:
        """The repository, or its refusal is the answer."""
        repository = self.server.repositories.get(key)
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            self.answer(b'{"error": "Invalid credentials in Authorization header"}', status=401)
        elif repository is None or (repository.private and "Authorization" not in self.headers):
            self.answer(b"{}", status=404, headers={"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", repository.commit):
            self.answer(b"{}", status=404, headers={"X-Error-Code": "RevisionNotFound"})
        else:
            return repository
        return None

    def answer(
        self, content: bytes, *, status: int = 200, headers: dict[str, str] | None = None, start: int = 0
    ) -> None:
        self.send_response(status)
        for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "GET":
            return
        first = len(content)
        if self.server.stops_at is not None and start + len(content) > self.server.stops_at:
            first = max(0, self.server.stops_at - start)
        try:
            self.wfile.write(content[:first])
            if first < len(content):
                self.wfile.flush()
                self.server.go_on.wait(60)
                self.wfile.write(content[first:])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # The client went away in the middle.

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_huggingface() -> Iterator[FakeHuggingFace]:
    """An empty hub that answers until the block ends."""
    with FakeHuggingFace() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()
