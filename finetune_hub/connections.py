"""Connections of the web process: one that does not send a whole request head in time is closed.

uvicorn closes a connection that is idle after an answer, and waits without end for the first byte of a request and for
the last one of its head. `request_bodies` has the time limits of what follows the head.

    uvicorn finetune_hub.asgi:application --http finetune_hub.connections:PatientConnection
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEAD_SECONDS = 20.0
"""How long the head of a request may take, from the connection's beginning or from its own first byte."""


class PatientConnection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """uvicorn's HTTP over one connection, with a time limit for the heads of requests."""

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
