"""Requests that are never sent to their end are closed in time, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from finetune_hub import connections, request_bodies
from finetune_hub.connections import HEAD_SECONDS, PatientConnection
from finetune_hub.request_bodies import Patience, RequestBodies, WholeAnswer

CROWD = 900
WITHIN_SECONDS = 0.5


class OpenGate:
    async def limit_bytes(self, _scope: Any, *, announced_bytes: int | None) -> int:
        return announced_bytes or 1000

    async def answer(self, _scope: Any, _refusal: Any) -> WholeAnswer:
        return WholeAnswer(408, [], b"too slow")


async def hello(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """Where uvicorn serves with short time limits."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", WITHIN_SECONDS)
    monkeypatch.setattr(request_bodies, "_READ_ON_SECONDS", WITHIN_SECONDS / 4)
    patience = Patience(pause_seconds=WITHIN_SECONDS)
    application = RequestBodies(hello, gate=OpenGate(), folder=tmp_path, patience=patience)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        server = uvicorn.Server(
            uvicorn.Config(application, http=PatientConnection, lifespan="off", log_level="error", timeout_keep_alive=1)
        )
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def connect(port: int, sent: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=30)
    client.sendall(sent)
    return client


def rest_of(client: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    received = b""
    try:
        while piece := client.recv(4096):
            received += piece
    except ConnectionResetError:
        pass
    return received


def read_hello(client: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"hello"):
        piece = client.recv(4096)
        assert piece, "it was closed"
        answer += piece


GET = b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n"
HALF_SENT = {
    "nothing": b"",
    "half a head": b"GET /api/jobs HTTP/1.1\r\nHost: hub\r\nX-",
    "half a body": b"POST /api/jobs HTTP/1.1\r\nHost: hub\r\nContent-Length: 100\r\n\r\n{",
    "half a chunk": b"POST /api/jobs HTTP/1.1\r\nHost: hub\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc",
    "half of a second head": GET + b"GET / HTTP",
}


def test_a_limit_of_half_a_minute() -> None:
    assert HEAD_SECONDS + 2 <= 30
    assert Patience().pause_seconds + 2 <= 30


@pytest.mark.parametrize("sent", HALF_SENT.values(), ids=HALF_SENT)
def test_each_is_closed(port: int, sent: bytes) -> None:
    with connect(port, sent) as client:
        began = time.monotonic()
        received = rest_of(client)
    assert time.monotonic() - began < 10
    if b"POST" in sent:
        assert received.startswith(b"HTTP/1.1 408")
    assert received.count(b"hello") == sent.count(GET)


def test_a_crowd_is_closed_and_others_are_answered(port: int) -> None:
    kinds = list(HALF_SENT.values())
    with ExitStack() as stack:
        crowd = [stack.enter_context(connect(port, kinds[number % len(kinds)])) for number in range(CROWD)]
        began = time.monotonic()
        with connect(port, GET) as client:
            read_hello(client)
        for client in crowd:
            rest_of(client)
    assert time.monotonic() - began < 25


def test_a_connection_that_goes_on_is_kept(port: int) -> None:
    with connect(port, b"") as client:
        for _ in range(3):
            time.sleep(WITHIN_SECONDS * 0.7)
            client.sendall(GET)
            read_hello(client)
