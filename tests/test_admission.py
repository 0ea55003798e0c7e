"""A web process takes a few requests at a time, lets a few wait, and tells the others when to come again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from finetune_hub.admission import Admission

HTTP = {"type": "http", "path": "/api/jobs"}


class Office:
    """An application that works until it is told to end; it counts who is inside."""

    def __init__(self, *, streams: bool = False) -> None:
        self.streams = streams
        self.inside = self.most = 0
        self.may_end = asyncio.Event()

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if self.streams:
            await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await self.may_end.wait()
        self.inside -= 1
        await send({"type": "http.response.body", "body": b""})


class Client:
    """One request."""

    def __init__(self, admission: Admission) -> None:
        self.answers: list[Mapping[str, Any]] = []
        self.task = asyncio.ensure_future(admission(HTTP, self._receive, self._send))

    @property
    def status(self) -> int | None:
        return self.answers[0]["status"] if self.answers else None

    @property
    def retry_after(self) -> int:
        return int(dict(self.answers[0]["headers"])[b"retry-after"])

    async def _receive(self) -> Mapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def _send(self, message: Mapping[str, Any]) -> None:
        self.answers.append(message)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_some_work_some_wait_and_the_others_are_told_when() -> None:
    async def crowd() -> None:
        office = Office()
        admission = Admission(office, slots=4, places=8, patience=30)
        clients = [Client(admission) for _ in range(112)]
        await settle()
        refused = [client for client in clients if client.status == 503]
        assert (office.inside, len(refused)) == (4, 100)
        waits = [client.retry_after for client in refused]
        assert waits == sorted(waits), "each after the one before"
        assert waits[0] <= 2 < waits[-1], "spread, instead of all at once"
        office.may_end.set()
        await asyncio.gather(*(client.task for client in clients))
        assert office.most == 4
        assert sum(client.status == 200 for client in clients) == 12

    asyncio.run(crowd())


def test_who_waits_too_long_is_refused_and_leaves_no_hole() -> None:
    async def queue() -> None:
        office = Office()
        admission = Admission(office, slots=1, places=1, patience=0.01)
        first, second = Client(admission), Client(admission)
        await second.task
        assert second.status == 503
        office.may_end.set()
        await first.task
        third = Client(admission)
        await third.task
        assert third.status == 200

    asyncio.run(queue())


def test_a_stream_gives_its_slot_back_with_its_first_words() -> None:
    async def streams() -> None:
        office = Office(streams=True)
        admission = Admission(office, slots=1, places=0, patience=0.01)
        clients = []
        for _ in range(20):
            clients.append(Client(admission))
            await settle()
        assert office.inside == 20
        office.may_end.set()
        await asyncio.gather(*(client.task for client in clients))

    asyncio.run(streams())


@pytest.mark.parametrize("failure", [RuntimeError, asyncio.CancelledError])
def test_a_request_that_fails_gives_its_slot_back(failure: type[BaseException]) -> None:
    async def fails(_scope: Any, _receive: Any, _send: Any) -> None:
        raise failure

    async def requests() -> None:
        admission = Admission(fails, slots=1, places=0, patience=0.01)
        for _ in range(3):
            client = Client(admission)
            with pytest.raises(failure):
                await client.task
            assert client.status is None

    asyncio.run(requests())
