"""Request bodies: how many bytes are read, how long that may take, and where they are stored.

    limit     checked before the first byte is read; a refused body is never stored
    counted   while it is read, so a body without `Content-Length` has the same limit
    in time   no pause longer than `pause_seconds`, and no average rate below `slowest_rate`
    stored    in memory if it is small, otherwise in an unnamed file that is deleted with the request

The request continues only once its body is complete: a slow body occupies no slot, thread or database connection.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from finetune_hub.admission import Application, Receive, Scope, Send
from finetune_hub.machine.full_disk import disk_full, is_full_disk, require_room
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words

BODY_FILE = "finetune_hub.body_file"
"""The key of the body in the scope: an open file, positioned at its beginning."""
SMALL_BODY_BYTES = 64 << 10
"""Anyone may send this much. It is kept in memory."""
QUESTIONS_AT_ONCE = 2
"""The number of threads per process that check the sender, each briefly with a database connection."""
_WRITTEN_AT_ONCE = 1 << 20
_READ_ON_SECONDS, _READ_ON_BYTES = (
    2.0,
    64 << 20,
)  # After a refusal, so that a client that is still sending can receive it.


@dataclass(frozen=True, slots=True)
class Patience:
    """The time limits of a body.

    Attributes:
        pause_seconds: The longest time without a byte.
        slowest_rate: The lowest average rate, in bytes per second, after the first `pause_seconds`.
    """

    pause_seconds: float = 20.0
    slowest_rate: float = 4096.0


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """A complete response."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class AnsweredAlready(Exception):
    """The request is refused, with this answer, before its body is read."""

    def __init__(self, answer: WholeAnswer) -> None:
        super().__init__()
        self.answer = answer


class Gate(Protocol):
    """Decides who may send how much to which URL, and how to answer a refusal there."""

    async def limit_bytes(self, scope: Scope, *, announced_bytes: int | None) -> int:
        """Return the size limit of the request's body.

        Raises:
            AnsweredAlready, Refusal: the sender may not send it.
        """

    async def answer(self, scope: Scope, refusal: Refusal) -> WholeAnswer:
        """Return the refusal in the form that this URL uses."""


class _HasLeft(Exception):
    """The client has closed the connection."""


class RequestBodies:
    """An ASGI application that reads request bodies for another one."""

    def __init__(self, application: Application, *, gate: Gate, folder: Path, patience: Patience | None = None) -> None:
        """
        Args:
            folder: The folder for bodies that are not small.
        """
        self._application, self._gate, self._folder = application, gate, folder
        self._patience = patience or Patience()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced_bytes = announced(scope) if scope["type"] == "http" else 0
        if announced_bytes == 0:
            await self._application(scope, receive, send)
            return
        try:
            with tempfile.SpooledTemporaryFile(SMALL_BODY_BYTES, dir=str(self._folder)) as body:
                try:
                    size_bytes = await self._read(scope, receive, body, announced_bytes)
                except Refusal as refusal:
                    raise AnsweredAlready(await self._gate.answer(scope, refusal)) from refusal
                whole = {**scope, "headers": _headers_of_whole(scope, size_bytes), BODY_FILE: body}
                await self._application(whole, _after_body(receive), send)
        except AnsweredAlready as refused:
            await _refuse(refused.answer, receive, send)
        except _HasLeft:
            return

    async def _read(self, scope: Scope, receive: Receive, body: IO[bytes], announced_bytes: int | None) -> int:
        """Write the body to the file, rewind it, and return its size in bytes.

        Raises:
            AnsweredAlready, Refusal: the body is refused, before or while it is read.
        """
        limit_bytes = await self._gate.limit_bytes(scope, announced_bytes=announced_bytes)
        if (announced_bytes or 0) > limit_bytes:
            raise too_large(limit_bytes)
        try:
            if announced_bytes is None or announced_bytes > SMALL_BODY_BYTES:
                require_room(self._folder, announced_bytes or 0)
            size_bytes = await self._copy(receive, body, limit_bytes)
        except OSError as error:
            if is_full_disk(error):
                raise disk_full() from error
            raise
        body.seek(0)
        return size_bytes

    async def _copy(self, receive: Receive, body: IO[bytes], limit_bytes: int) -> int:
        began, size_bytes, more, waiting = time.monotonic(), 0, True, bytearray()
        while more:
            message = await self._next(receive, began, size_bytes)
            size_bytes += len(message.get("body", b""))
            if size_bytes > limit_bytes:
                raise too_large(limit_bytes)
            waiting += message.get("body", b"")
            more = bool(message.get("more_body"))
            if size_bytes <= SMALL_BODY_BYTES:
                continue
            if len(waiting) >= _WRITTEN_AT_ONCE or not more:
                await asyncio.to_thread(body.write, bytes(waiting))
                waiting.clear()
        if waiting:
            body.write(bytes(waiting))  # To memory: it is small.
        return size_bytes

    async def _next(self, receive: Receive, began: float, size_bytes: int) -> Mapping[str, Any]:
        allowed = self._patience.pause_seconds + size_bytes / self._patience.slowest_rate
        left = min(self._patience.pause_seconds, began + allowed - time.monotonic())
        try:
            message = await asyncio.wait_for(receive(), max(left, 0.001))
        except TimeoutError as error:
            raise Refusal(
                "body_too_slow",
                "The request body did not arrive in time.",
                "Send it again over a faster connection, or upload a large file in parts (`/api/uploads`).",
                kind="too_slow",
            ) from error
        if message["type"] == "http.disconnect":
            raise _HasLeft
        return message


def announced(scope: Scope) -> int | None:
    """Return the announced size of the body; None for chunked encoding."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return None
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() and len(length) < 20 else 1 << 62


def too_large(limit_bytes: int) -> Refusal:
    """Return the refusal of a body above the limit of its URL."""
    return Refusal(
        "body_too_large",
        f"The request body is larger than {size_in_words(limit_bytes)}.",
        "Upload data as a dataset, and a large file in parts (`/api/uploads`).",
        kind="too_large",
    )


def _headers_of_whole(scope: Scope, size_bytes: int) -> list[tuple[bytes, bytes]]:
    """Return the request's headers with the real size of its body."""
    kept = [pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding")]
    return [*kept, (b"content-length", str(size_bytes).encode())]


def _after_body(receive: Receive) -> Receive:
    """Return a `receive` for after the body: first an empty end of the body, then the client's events."""
    has_ended = False

    async def listen() -> Mapping[str, Any]:
        nonlocal has_ended
        if has_ended:
            return await receive()
        has_ended = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return listen


async def _refuse(answer: WholeAnswer, receive: Receive, send: Send) -> None:
    """Answer, discard input for a moment, and close. Closing at once would reset a client that is still sending."""
    headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    with suppress(TimeoutError):
        await asyncio.wait_for(_read_on(receive), _READ_ON_SECONDS)
    await send({"type": "http.response.body", "body": b""})


async def _read_on(receive: Receive) -> None:
    dropped = 0
    while dropped < _READ_ON_BYTES:
        message = await receive()
        dropped += len(message.get("body", b""))
        if not message.get("more_body"):
            return
