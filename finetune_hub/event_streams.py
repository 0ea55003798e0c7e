"""Server-sent events without Django's request: an open stream costs one coroutine and its socket.

Django keeps a thread and the request until the response has ended, and a stream ends only when its client disconnects.
Therefore the view only checks access and hands over an iterator of texts:

    view           return event_stream(request, texts)
    EventStreams   sends the status and headers of the view and, after Django has finished, the texts
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from finetune_hub.admission import Application, Receive, Scope, Send

if TYPE_CHECKING:
    from django.http import HttpRequest, StreamingHttpResponse

LOOKS_AT_ONCE = 4
"""Threads, each with one database connection at most, that query for all streams of a process."""
_HAND_OVER = "finetune_hub.hand_over"

Texts = AsyncGenerator[str, None]


def event_stream(request: HttpRequest, texts: Texts) -> StreamingHttpResponse:
    """Return the response of a view that opens a stream. Without `EventStreams` (in tests), Django sends it."""
    from django.http import StreamingHttpResponse

    hand_over = getattr(request, "scope", {}).get(_HAND_OVER)
    if hand_over is not None:
        hand_over(texts)
    return StreamingHttpResponse(
        texts if hand_over is None else _nothing(),
        content_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


class EventStreams:
    """ASGI middleware that sends the streams that views hand over."""

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened: list[Texts] = []

        async def say(message: Mapping[str, Any]) -> None:
            if opened and message["type"] == "http.response.body":
                message = {**message, "more_body": True}
            await send(message)

        try:
            await self._application({**scope, _HAND_OVER: opened.append}, receive, say)
            for texts in opened:
                await _send_until_disconnect(texts, receive, send)
        finally:
            for texts in opened:
                await texts.aclose()


async def _send_until_disconnect(texts: Texts, receive: Receive, send: Send) -> None:
    """Send the texts until they end or the client disconnects."""

    async def send_all() -> None:
        async for text in texts:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def wait_for_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = {asyncio.create_task(send_all()), asyncio.create_task(wait_for_disconnect())}
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()


async def _nothing() -> AsyncIterator[str]:
    return
    yield
