"""The service, which also tells how many requests it is at work on."""

from __future__ import annotations

from typing import Any

from finetune_hub.asgi import application as hub
from tests.browser.conftest import IN_PROGRESS

requests_in_progress = 0


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    global requests_in_progress
    if scope["type"] == "http" and scope["path"] == IN_PROGRESS:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": str(requests_in_progress).encode()})
        return
    requests_in_progress += 1
    try:
        await hub(scope, receive, send)
    finally:
        requests_in_progress -= 1
