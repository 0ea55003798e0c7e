"""Admission control: how many requests a web process handles at once, how many wait, and when others may retry.

    at work   at most `slots`: no more than the connection pool has, so that none waits for a connection midway
    waiting   for a slot, at most `places` of them and at most `patience` seconds
    others    503 with `Retry-After`: each gets its own time, spaced by the current rate of completed requests

The spacing keeps clients from retrying all at once: of 1,000 clients that obey the header, each finds a slot. An event
stream releases its slot after its first chunk, because from then on it mostly waits.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

CODE = "busy"

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_MEASURED_REQUESTS = (16, 64)  # The rate is measured over at least and at most so many completed requests.
_USUAL_RATE = 20.0  # Requests per second, until enough have been measured.
_PROMISED_SHARE = 0.9  # Leaves room for new requests and for rounding to whole seconds.
_LONGEST_PROMISE_SECONDS = 60.0


class Admission:
    """An ASGI application that limits another one's concurrent requests."""

    def __init__(
        self,
        application: Application,
        *,
        slots: int,
        places: int,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._application = application
        self._slots = asyncio.Semaphore(slots)
        self._places, self._patience, self._clock = places, patience, clock
        self._waiting = 0
        self._rate = _USUAL_RATE
        self._ends: deque[float] = deque(maxlen=_MEASURED_REQUESTS[1])  # While all slots are taken.
        self._promised = 0.0  # The latest time given in a `Retry-After`.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
        elif await self._enter():
            await self._work(scope, receive, send)
        else:
            await _refuse(scope, send, self._next_moment())

    async def _enter(self) -> bool:
        """Wait for a slot. Returns False if there is no place to wait or it took too long."""
        if not self._slots.locked():
            await self._slots.acquire()
            return True
        if self._waiting >= self._places:
            return False
        self._waiting += 1
        try:
            await asyncio.wait_for(self._slots.acquire(), self._patience)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        holds = True

        def leave() -> None:
            nonlocal holds
            if holds:
                holds = False
                self._measure()
                self._slots.release()

        async def say(message: Mapping[str, Any]) -> None:
            await send(message)
            if message["type"] == "http.response.body" and message.get("more_body"):
                leave()

        try:
            await self._application(scope, receive, say)
        finally:
            leave()

    def _next_moment(self) -> float:
        """Return in how many seconds a request that is refused now will find a slot."""
        now = self._clock()
        each = 1 / (_PROMISED_SHARE * self._rate)
        self._promised = max(self._promised + each, now + self._waiting / self._rate)
        return min(self._promised - now, _LONGEST_PROMISE_SECONDS)

    def _measure(self) -> None:
        """Record a completed request. While all slots are taken, the time between completions gives the rate."""
        if not self._slots.locked():
            self._ends.clear()
            return
        self._ends.append(self._clock())
        if len(self._ends) >= _MEASURED_REQUESTS[0]:
            self._rate = (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-3)


async def _refuse(scope: Scope, send: Send, seconds: float) -> None:
    wait = str(max(1, math.ceil(seconds)))
    message = "The hub is busy: there are too many requests at once."
    remedy = f"Try again in {wait} s."
    if scope["path"].startswith("/api/"):
        error: dict[str, Any] = {"code": CODE, "message": message, "remedy": remedy, "field": None, "details": []}
        kind, body = b"application/json", json.dumps({"error": error}).encode()
    else:
        kind, body = b"text/plain; charset=utf-8", f"{message} {remedy}\n".encode()
    headers = [(b"content-type", kind), (b"retry-after", wait.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
