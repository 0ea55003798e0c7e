"""The ASGI application that uvicorn serves: Django with a limit on concurrent requests.

A request's body is read first, as far as its URL and its sender allow (`request_bodies`).

It also cancels a response at its next chunk if the client has disconnected. Django cancels such a request itself, but a
cancellation that arrives while a middleware runs in its thread is lost. A stream would then continue without a client
until its job ends, because uvicorn silently drops its output.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any

from django import setup
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

from finetune_hub import environment
from finetune_hub.admission import Admission
from finetune_hub.event_streams import LOOKS_AT_ONCE, EventStreams
from finetune_hub.request_bodies import BODY_FILE, QUESTIONS_AT_ONCE, RequestBodies

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "finetune_hub.settings")
# The connection pool of a web process: for its requests, its streams, who may send much, and a few spare connections.
REQUESTS_AT_ONCE = environment.count("FINETUNE_HUB_REQUESTS_AT_ONCE", 8)
os.environ["FINETUNE_HUB_DATABASE_POOL"] = str(REQUESTS_AT_ONCE + LOOKS_AT_ONCE + QUESTIONS_AT_ONCE + 4)
WAITING_REQUESTS, WAITING_SECONDS = 64, 0.9

setup(set_prefix=False)

from finetune_hub.body_gate import HubGate  # noqa: E402  # It needs the apps.


class Handler(ASGIHandler):
    """Django's handler, which uses the body that `RequestBodies` has stored instead of storing it again."""

    def create_request(self, scope: Mapping[str, Any], body_file: IO[bytes]) -> Any:
        return super().create_request(scope, scope.get(BODY_FILE, body_file))


handler = Handler()


async def django(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Mapping[str, Any]]],
    send: Callable[[Mapping[str, Any]], Awaitable[None]],
) -> None:
    has_left = False

    async def listen() -> Mapping[str, Any]:
        nonlocal has_left
        event = await receive()
        has_left = has_left or event["type"] == "http.disconnect"
        return event

    async def say(event: Mapping[str, Any]) -> None:
        if has_left:
            raise asyncio.CancelledError  # Django's handler treats this as a disconnected client.
        await send(event)

    await handler(scope, listen, say)


admission = Admission(django, slots=REQUESTS_AT_ONCE, places=WAITING_REQUESTS, patience=WAITING_SECONDS)
bodies = RequestBodies(admission, gate=HubGate(), folder=settings.HOME / "tmp")
application = EventStreams(bodies)
