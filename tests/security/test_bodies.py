"""What is read of a request's body: as much as its address and its sender allow, in time, and nothing is left of it."""

from __future__ import annotations

import asyncio
import errno
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.test import Client as Browser

from finetune_hub import body_gate, request_bodies
from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Role, Scope
from finetune_hub.body_gate import HubGate
from finetune_hub.request_bodies import BODY_FILE, SMALL_BODY_BYTES, Patience, RequestBodies
from tests.factories import first_member, make_member, make_team

LARGE = SMALL_BODY_BYTES + 1


@dataclass
class Sent:
    """One request over ASGI: what was answered, how much was read, and what the application got of its body."""

    pieces: list[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/api/datasets"
    method: str = "POST"
    then_waits: bool = False
    read_bytes: int = 0
    body: bytes | None = None
    messages: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def scope(self) -> dict[str, Any]:
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        return {"type": "http", "method": self.method, "path": self.path, "query_string": b"", "headers": headers}

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)["error"]
        return found

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.messages[1:]).decode()

    async def receive(self) -> Mapping[str, Any]:
        if not self.pieces and self.then_waits:
            await asyncio.sleep(60)
        piece = self.pieces.pop(0) if self.pieces else b""
        self.read_bytes += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces) or self.then_waits}

    async def send(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)

    async def application(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        body = scope.get(BODY_FILE)
        self.body = body.read() if body else b""
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        assert (await receive()) == {"type": "http.request", "body": b"", "more_body": False}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class OpenGate(HubGate):
    """Lets everybody send so much."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit = limit_bytes

    async def limit_bytes(self, scope: Any, *, announced_bytes: int | None) -> int:
        return self.limit


def ask(sent: Sent, *, gate: HubGate | None = None, patience: Patience | None = None) -> Sent:
    bodies = RequestBodies(sent.application, gate=gate or HubGate(), folder=settings.HOME / "tmp", patience=patience)
    async_to_sync(bodies)(sent.scope, sent.receive, sent.send)
    return sent


@pytest.fixture(autouse=True)
def short_reading_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_bodies, "_READ_ON_SECONDS", 0.05)


@pytest.fixture
def in_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions to the database see what the test has written and not committed."""

    monkeypatch.setattr(body_gate, "in_threads", lambda threads, function: sync_to_async(function))


def length(size_bytes: int) -> dict[str, str]:
    return {"Content-Length": str(size_bytes)}


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
CHUNKED = {"Transfer-Encoding": "chunked"}


def test_a_body_above_the_limit_of_its_address_is_refused_unread() -> None:
    for path, size_bytes in (("/api/jobs", 2 << 20), ("/api/datasets", 3 << 30), ("/api/uploads/up-1", 17 << 20)):
        sent = ask(Sent([b"x" * 1000] * 3, length(size_bytes), path, method="PUT" if "up-1" in path else "POST"))
        assert (sent.status, sent.error["code"]) == (413, "body_too_large"), path
        assert sent.error["remedy"]
        assert sent.body is None


def test_a_page_says_so_in_html_and_its_scripts_in_json() -> None:
    page = ask(Sent([], length(2 << 20) | {"Accept": "text/html"}, "/jobs/new/"))
    assert (page.status, dict(page.messages[0]["headers"])[b"connection"]) == (413, b"close")
    assert '<main id="main"' in page.text
    script = ask(Sent([], length(17 << 20), "/datasets/uploads/up-1/parts"))
    assert "larger than" in json.loads(script.text)["message"]


@pytest.mark.django_db
@pytest.mark.usefixtures("in_this_thread")
class TestWhoMay:
    """Each sends what its address takes, and is looked at before the first byte is read."""

    @pytest.mark.parametrize("headers", [length(LARGE), CHUNKED, length(900) | MULTIPART])
    def test_nobody(self, headers: dict[str, str]) -> None:
        sent = ask(Sent([b"x" * LARGE], headers))
        assert (sent.status, sent.error["code"]) == (401, "not_authenticated")
        assert dict(sent.messages[0]["headers"])[b"www-authenticate"]
        page = ask(Sent([b"x" * LARGE], headers | {"HX-Request": "true"}, "/datasets/upload/"))
        assert page.status == 403
        assert "Sign in" in page.text
        assert page.body is None

    def test_a_token_without_the_right(self) -> None:
        team = make_team()
        _, reading = create_token(first_member(team), team, name="reads", scopes=[Scope.READ])
        viewer = make_member(team, Role.VIEWER)
        _, looking = create_token(viewer, team, name="looks", scopes=[Scope.READ])
        for token, code in ((reading, "insufficient_scope"), (looking, "forbidden"), ("fth_x", "invalid_token")):
            sent = ask(Sent([b"x" * LARGE], length(LARGE) | {"Authorization": f"Bearer {token}"}))
            assert (sent.status, sent.error["code"]) in {(403, code), (401, code)}
            assert sent.body is None

    def test_a_member(self) -> None:
        team = make_team()
        _, token = create_token(first_member(team), team, name="test")
        sent = ask(Sent([b"x" * LARGE], length(LARGE) | {"Authorization": f"Bearer {token}"}))
        assert (sent.status, sent.body) == (200, b"x" * LARGE)
        browser = Browser()
        browser.force_login(first_member(team))
        cookie = {"Cookie": f"sessionid={browser.cookies['sessionid'].value}"}
        sent = ask(Sent([b"x" * LARGE], CHUNKED | cookie, "/datasets/upload/"))
        assert (sent.status, sent.body) == (200, b"x" * LARGE)

    def test_a_viewer_of_a_page(self) -> None:
        browser = Browser()
        browser.force_login(make_member(make_team(), Role.VIEWER))
        cookie = {"Cookie": f"sessionid={browser.cookies['sessionid'].value}"}
        sent = ask(Sent([b"x" * LARGE], length(LARGE) | cookie, "/datasets/upload/"))
        assert sent.status == 403
        assert "Only members" in sent.text


def test_a_body_in_chunks_is_counted_and_gets_its_length() -> None:
    within = ask(Sent([b"x" * 500, b"y" * 500], dict(CHUNKED)), gate=OpenGate(1000))
    assert (within.status, within.body) == (200, b"x" * 500 + b"y" * 500)
    assert within.headers == {"content-length": "1000"}
    beyond = ask(Sent([b"x" * 400] * 1000, dict(CHUNKED)), gate=OpenGate(1000))
    assert (beyond.status, beyond.error["code"], beyond.body) == (413, "body_too_large", None)


def test_who_still_sends_reads_the_refusal_before_the_connection_closes() -> None:
    sent = ask(Sent([b"x" * 1000] * 20, length(2 << 20), "/api/jobs"))
    assert sent.read_bytes == 20_000
    assert [message.get("more_body", False) for message in sent.messages] == [False, True, False]


@pytest.mark.parametrize("pieces", [[], [b"x" * 10]])
def test_a_body_that_does_not_come(pieces: list[bytes]) -> None:
    sent = ask(Sent(pieces, length(1000), then_waits=True), gate=OpenGate(1000), patience=Patience(0.05))
    assert (sent.status, sent.error["code"]) == (408, "body_too_slow")


def test_a_body_that_trickles() -> None:
    class Trickle(Sent):
        async def receive(self) -> Mapping[str, Any]:
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b"x", "more_body": True}

    sent = ask(Trickle([], length(1000)), gate=OpenGate(1000), patience=Patience(0.2, slowest_rate=1000))
    assert (sent.status, sent.error["code"]) == (408, "body_too_slow")


def test_a_client_that_leaves_is_not_answered() -> None:
    class Leaves(Sent):
        async def receive(self) -> Mapping[str, Any]:
            return {"type": "http.disconnect"}

    sent = ask(Leaves([], length(1000)), gate=OpenGate(1000))
    assert (sent.messages, sent.body) == ([], None)


@contextmanager
def watched_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of what was ever made in a temporary folder."""
    made: list[str] = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda *args, **kwargs: made.append("file") or real(*args, **kwargs))
    yield made


def test_a_small_body_is_kept_in_memory_and_a_large_one_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = set((settings.HOME / "tmp").iterdir())
    with watched_folder(monkeypatch) as made:
        ask(Sent([b"x" * SMALL_BODY_BYTES], length(SMALL_BODY_BYTES)), gate=OpenGate(LARGE))
        assert not made
        ask(Sent([b"x" * LARGE], length(LARGE)), gate=OpenGate(LARGE))
        assert made
    assert set((settings.HOME / "tmp").iterdir()) == before


def test_a_full_disk_is_said_before_and_while_a_body_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    announced = ask(Sent([b"x"], length(1 << 60)), gate=OpenGate(1 << 61))
    assert (announced.status, announced.error["code"]) == (507, "disk_full")
    assert "free space" in announced.error["remedy"]

    def write(*_: Any) -> int:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", write)
    written = ask(Sent([b"x" * LARGE], length(LARGE)), gate=OpenGate(LARGE))
    assert (written.status, written.error["code"], written.body) == (507, "disk_full", None)
