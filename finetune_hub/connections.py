"""Connections of the web process, which are closed if they do not send complete request headers in time.

uvicorn closes a connection that is idle after a response, but waits forever for the first request of a connection and
for the end of its headers. The time limits of request bodies are in `request_bodies`.

    uvicorn finetune_hub.asgi:application --http finetune_hub.connections:PatientConnection
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 20.0
"""The time limit for request headers, from the start of the connection or from their first byte."""


class PatientConnection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP protocol with a time limit for request headers."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_at_work = self.cycle is not None and not self.cycle.response_complete
        if is_at_work:
            self._stop_waiting()
        elif self._limit is None and self.timeout_keep_alive_task is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._limit = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
