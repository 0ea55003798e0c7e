"""How many requests a web process works on at once, how many wait, and when the others may come again.

    at work   at most `slots`: as many as the pool has database connections, so that none waits for one in the middle
    waiting   for a slot, at most `places` of them and at most `patience` seconds
    others    503 with `Retry-After`: each of them is promised a moment of its own, spaced as requests end at present

A promise keeps a crowd from coming back all at once: of 1,000 clients that obey the header, each finds room. A stream
of events gives its slot back with its first words: from then on it waits for news, and works for moments only.
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

_MEASURED_REQUESTS = (16, 64)  # At least and at most: the rate is that of so many which ended last.
_USUAL_RATE = 20.0  # Requests a second, until some have been measured.
_PROMISED_SHARE = 0.9  # Fewer are promised than end: others come meanwhile, and clients wake at whole seconds.
_LONGEST_PROMISE_SECONDS = 60.0


class Admission:
    """An ASGI application that lets another one have so many requests at a time."""

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
        self._ends: deque[float] = deque(maxlen=_MEASURED_REQUESTS[1])  # Since all slots are taken.
        self._promised = 0.0  # The latest moment that somebody was told to come again.

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
        elif await self._enter():
            await self._work(scope, receive, send)
        else:
            await _refuse(scope, send, self._next_moment())

    async def _enter(self) -> bool:
        """Wait for a slot; False: there is no place to wait, or it took too long."""
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
        """Seconds after which the one who is refused now will find room."""
        now = self._clock()
        each = 1 / (_PROMISED_SHARE * self._rate)
        self._promised = max(self._promised + each, now + self._waiting / self._rate)
        return min(self._promised - now, _LONGEST_PROMISE_SECONDS)

    def _measure(self) -> None:
        """A request ends: while all slots are taken, the time between two ends is what one of them takes."""
        if not self._slots.locked():
            self._ends.clear()
            return
        self._ends.append(self._clock())
        if len(self._ends) >= _MEASURED_REQUESTS[0]:
            self._rate = (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-3)


async def _refuse(scope: Scope, send: Send, seconds: float) -> None:
    wait = str(max(1, math.ceil(seconds)))
    message = "The hub is busy: more requests came at once than it takes."
    remedy = f"Try again in {wait} s."
    if scope["path"].startswith("/api/"):
        error: dict[str, Any] = {"code": CODE, "message": message, "remedy": remedy, "field": None, "details": []}
        kind, body = b"application/json", json.dumps({"error": error}).encode()
    else:
        kind, body = b"text/plain; charset=utf-8", f"{message} {remedy}\n".encode()
    headers = [(b"content-type", kind), (b"retry-after", wait.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
