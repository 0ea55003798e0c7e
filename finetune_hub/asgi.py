"""The ASGI application that uvicorn serves: Django's, with as many requests at a time as it has connections for them.

It is told at its next word when the client has left.
Django cancels a request whose client leaves. A cancellation that comes while a middleware is at work in its thread is
lost there, and a stream then goes on for nobody until its job ends: uvicorn drops what it says in silence.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.core.asgi import get_asgi_application

from finetune_hub import environment
from finetune_hub.admission import Admission
from finetune_hub.event_streams import LOOKS_AT_ONCE, EventStreams

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "finetune_hub.settings")
# A web process has a pool: for its requests, for what streams look up, and a few to spare.
REQUESTS_AT_ONCE = environment.count("FINETUNE_HUB_REQUESTS_AT_ONCE", 16)
os.environ["FINETUNE_HUB_DATABASE_POOL"] = str(REQUESTS_AT_ONCE + LOOKS_AT_ONCE + 4)
WAITING_REQUESTS, WAITING_SECONDS = 64, 0.75

handler = get_asgi_application()


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
            raise asyncio.CancelledError  # What Django's handler takes for a client that has left.
        await send(event)

    await handler(scope, listen, say)


admission = Admission(django, slots=REQUESTS_AT_ONCE, places=WAITING_REQUESTS, patience=WAITING_SECONDS)
application = EventStreams(admission)
