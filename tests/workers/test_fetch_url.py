"""Fetching a dataset's file from an address: bounded, resumed, and closed to the inside of the network."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from finetune_hub.spec.run import FetchedDataset, UrlFetchRun
from workers import fetch_url
from workers.fetch_url import UrlRefused, fetch, pinned_request

ROWS = b'{"text": "a row"}\n' * 400_000


class Site(ThreadingHTTPServer):
    """Serves `/rows.jsonl`; the first `breaks` answers stop in the middle. `/away` leads to where `leads_to` says."""

    daemon_threads = True
    content = ROWS
    etag = '"one"'
    breaks = 0
    leads_to = "/rows.jsonl"
    names_its_size = True

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.hosts: list[str | None] = []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.hosts.append(self.headers["Host"])
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", self.server.leads_to)
            self.end_headers()
            return
        if self.path != "/rows.jsonl":
            self.send_error(404)
            return
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        if self.headers.get("If-Range") != self.server.etag:
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        rest = self.server.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("ETag", self.server.etag)
        if self.server.names_its_size:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.server.breaks:
            self.server.breaks -= 1
            rest = rest[: len(rest) // 2]
        try:
            self.wfile.write(rest)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def make_run(site: Site, folder: Path, path: str = "/rows.jsonl", **changes: Any) -> UrlFetchRun:
    defaults = {
        "url": site.url + path,
        "file_name": "rows.jsonl",
        "folder": folder / "downloads",
        "max_bytes": 1 << 30,
        "allow_private": True,
        "output_dir": folder / "output",
    }
    return UrlFetchRun.model_validate(defaults | changes)


def result_of(run: UrlFetchRun) -> FetchedDataset:
    return FetchedDataset.model_validate(json.loads((run.output_dir / "result.json").read_text()))


def test_a_broken_download_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    site.breaks = 2
    run = make_run(site, tmp_path)
    fetch(run)
    assert result_of(run).file.read_bytes() == ROWS
    assert result_of(run).source.startswith(f"{site.url}/rows.jsonl (SHA-256 ")
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in site.asked if asked]
    assert 0 < starts[0] < starts[1] < len(ROWS)


def test_a_file_that_changed_meanwhile_is_fetched_anew(site: Site, tmp_path: Path) -> None:
    site.breaks = fetch_url.TRIES
    run = make_run(site, tmp_path)
    with pytest.raises(UrlRefused, match="failed 5 times") as broken:
        fetch(run)
    assert broken.value.failure_class == "infrastructure"
    site.content, site.etag = b'{"text": "other"}\n' * 9, '"two"'
    fetch(run)
    assert result_of(run).file.read_bytes() == site.content


@pytest.mark.parametrize("names_its_size", [True, False])
def test_a_file_is_bounded_whatever_it_says(site: Site, tmp_path: Path, names_its_size: bool) -> None:
    site.names_its_size = names_its_size
    with pytest.raises(UrlRefused, match=r"larger than 1\.0 MB"):
        fetch(make_run(site, tmp_path, max_bytes=1 << 20))


def test_what_is_not_there_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UrlRefused, match="responded with 404"):
        fetch(make_run(site, tmp_path, "/none"))


def test_redirects_are_followed_and_looked_at(site: Site, tmp_path: Path) -> None:
    run = make_run(site, tmp_path, "/away")
    fetch(run)
    assert result_of(run).file.read_bytes() == ROWS
    site.leads_to = "file:///etc/passwd"
    with pytest.raises(UrlRefused, match="file:// URLs are not supported"):
        fetch(make_run(site, tmp_path / "other", "/away"))
    site.leads_to = "/away"
    with pytest.raises(UrlRefused, match="redirects more than"):
        fetch(make_run(site, tmp_path / "loop", "/away"))


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://localhost/x",
        "https://10.0.0.1/x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/x",
        "https://[::ffff:127.0.0.1]/x",
        "https://[64:ff9b::7f00:1]/x",
        "https://0.0.0.0/x",
        "https://2130706433/x",
    ],
)
def test_the_inside_of_the_network_is_closed(url: str, tmp_path: Path) -> None:
    run = UrlFetchRun(
        url=url, file_name="x", folder=tmp_path, max_bytes=1, allow_private=False, output_dir=tmp_path / "output"
    )
    with pytest.raises(UrlRefused, match="on a private network"):
        fetch(run)


def test_http_needs_the_setting(tmp_path: Path) -> None:
    run = UrlFetchRun(
        url="http://example.org/x",
        file_name="x",
        folder=tmp_path,
        max_bytes=1,
        allow_private=False,
        output_dir=tmp_path / "output",
    )
    with pytest.raises(UrlRefused, match="starts with https"):
        fetch(run)


def test_the_connection_goes_to_the_address_that_was_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with one public and one private address is refused; else it is never resolved a second time."""
    answers = ["93.184.215.14"]
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 0, 0, "", (address, 443)) for address in answers]
    )
    with httpx.Client() as client:
        request = pinned_request(client, httpx.URL("https://example.org:8443/a?b=c"), {}, allow_private=False)
        assert str(request.url) == "https://93.184.215.14:8443/a?b=c"
        assert request.headers["Host"] == "example.org:8443"
        assert request.extensions["sni_hostname"] == "example.org"
        answers.append("10.0.0.7")
        with pytest.raises(UrlRefused):
            pinned_request(client, httpx.URL("https://example.org/"), {}, allow_private=False)
