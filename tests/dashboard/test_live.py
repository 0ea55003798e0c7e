"""The stream of one job, against the real Postgres and Valkey."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import LazySettings
from django.core.asgi import get_asgi_application
from django.db import OperationalError, connection, connections, transaction
from django.test import AsyncClient
from django.urls import reverse

from finetune_hub.accounts.models import User
from finetune_hub.dashboard import job_feed
from finetune_hub.dashboard.live import Cursor
from finetune_hub.dashboard.middleware import CONTENT_SECURITY_POLICY
from finetune_hub.event_streams import EventStreams
from finetune_hub.jobs.lifecycle import EventDraft, add_events, end_job
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.jobs.steering import pause_job
from tests.dashboard.conftest import CALLERS, World, make_point, make_world
from tests.dashboard.test_who_sees_what import expected_status

pytestmark = pytest.mark.django_db(transaction=True)


class Reader:
    """What an EventSource does: events by name, and the id of the newest."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self.chunks = chunks
        self.last_id = ""

    async def read(self) -> tuple[str, str]:
        """The next event and its data; a comment is an event without a name."""
        chunk = (await asyncio.wait_for(anext(self.chunks), timeout=60)).decode()
        fields = [line.partition(": ") for line in chunk.strip().split("\n")]
        names = [value for field, _, value in fields if field == "event"]
        self.last_id = next((value for field, _, value in fields if field == "id"), self.last_id)
        return (names or [""])[0], "\n".join(value for field, _, value in fields if field == "data")

    async def read_until(self, name: str) -> str:
        while True:
            event, data = await self.read()
            if event == name:
                return data


async def watch(world: World, headers: dict[str, str] | None = None) -> Reader:
    client = AsyncClient()
    await client.aforce_login(world.alice)
    address = reverse("job-stream", args=[world.job.pk])
    response = await client.get(address, {"state": "running"}, headers=headers or {})
    assert response["Content-Type"] == "text/event-stream"
    assert (response["Cache-Control"], response["X-Accel-Buffering"]) == ("no-cache", "no")
    return Reader(aiter(response.streaming_content))


def report_step(world: World, step: int) -> None:
    with transaction.atomic():
        make_point(world.attempt, step)
        add_events(world.job, [EventDraft(f"Checkpoint at step {step}.")])


def end(world: World) -> None:
    with transaction.atomic():
        end_job(Job.objects.get(pk=world.job.pk), JobState.SUCCEEDED, "Done.")


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    """A world, and a scenario on an event loop of its own."""
    world = make_world()
    connection.close()

    async def whole() -> None:
        try:
            await scenario(world)
        finally:
            await sync_to_async(connections.close_all)()

    asyncio.run(whole())


def test_it_tells_what_there_is_then_what_is_new_then_the_end() -> None:
    async def scenario(world: World) -> None:
        reader = await watch(world)
        assert [point["step"] for point in json.loads(await reader.read_until("metrics"))] == [1, 2]
        assert "Submitted." in await reader.read_until("history")
        assert "running" in await reader.read_until("summary")
        assert "Attempt 1" in await reader.read_until("attempts")
        assert await reader.read_until("log") == "the last words"
        started = time.monotonic()
        await sync_to_async(report_step)(world, 3)
        assert [point["step"] for point in json.loads(await reader.read_until("metrics"))] == [3]
        assert "Checkpoint at step 3." in await reader.read_until("history")
        assert time.monotonic() - started < 12  # Announced, not found by looking every 15 seconds.
        assert reader.last_id == "2-1-3"
        await sync_to_async(end)(world)
        while "succeeded" not in await reader.read_until("summary"):
            pass
        assert await reader.read_until("end") == ""
        with pytest.raises(StopAsyncIteration):
            await reader.read()

    run(scenario)


def test_it_goes_on_from_the_last_event_id() -> None:
    async def scenario(world: World) -> None:
        await sync_to_async(report_step)(world, 3)
        reader = await watch(world, {"Last-Event-ID": "1-1-2"})
        assert [point["step"] for point in json.loads(await reader.read_until("metrics"))] == [3]
        assert reader.last_id == "1-1-3"  # Who leaves here has not seen the history.
        assert "Checkpoint at step 3." in await reader.read_until("history")
        assert reader.last_id == "2-1-3"
        again = await watch(world, {"Last-Event-ID": "2-1-3"})
        assert [(await again.read())[0] for _ in range(3)] == ["summary", "attempts", "log"]

    run(scenario)


def test_it_tells_when_the_state_is_another_than_the_page_shows() -> None:
    async def scenario(world: World) -> None:
        reader = await watch(world)
        await reader.read_until("log")
        await sync_to_async(pause_job)(world.job.pk, world.alice)
        assert await reader.read_until("state") == "pausing"
        assert "pausing" in await reader.read_until("summary")

    run(scenario)


def test_without_redis_it_looks_every_two_seconds(settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"
    monkeypatch.setattr(job_feed, "POLL_SECONDS", 0.2)

    async def scenario(world: World) -> None:
        reader = await watch(world)
        await reader.read_until("log")
        await sync_to_async(make_point)(world.attempt, 3)
        assert [point["step"] for point in json.loads(await reader.read_until("metrics"))] == [3]

    run(scenario)


def test_an_idle_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_feed, "LOOK_SECONDS", 0.3)

    async def scenario(world: World) -> None:
        reader = await watch(world)
        await reader.read_until("log")
        assert await reader.read() == ("", "")

    run(scenario)


def test_who_leaves_the_team_hears_no_more() -> None:
    async def scenario(world: World) -> None:
        reader = await watch(world)
        await reader.read_until("log")
        await world.team.memberships.all().adelete()
        await sync_to_async(report_step)(world, 3)
        assert (await reader.read())[0] == "end"

    run(scenario)


def test_many_who_watch_cost_one_look_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    look = job_feed._look
    monkeypatch.setattr(job_feed, "_look", lambda job_id, users: looks.append(len(users)) or look(job_id, users))

    async def scenario(world: World) -> None:
        client = AsyncClient()
        await client.aforce_login(world.alice)
        path = reverse("job-stream", args=[world.job.pk])
        cookie = f"sessionid={client.cookies['sessionid'].value}".encode()
        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "headers": [(b"cookie", cookie), (b"host", b"testserver")],
        }
        application = EventStreams(get_asgi_application())
        streams = [ApplicationCommunicator(application, dict(scope)) for _ in range(20)]

        async def read_until(stream: ApplicationCommunicator, text: bytes) -> None:
            while text not in (await stream.receive_output(60)).get("body", b""):
                pass

        for stream in streams:
            await stream.send_input({"type": "http.request"})
            assert (await stream.receive_output(60))["status"] == 200
        for stream in streams:
            await read_until(stream, b"event: log")
        assert threading.active_count() < len(streams)
        looks.clear()
        await sync_to_async(report_step)(world, 3)
        for stream in streams:
            await read_until(stream, b"Checkpoint at step 3.")
        assert len(looks) < 4  # One, or few where another moment has been announced.
        assert len(job_feed.job_feeds()._feeds[world.job.pk].watchers) == 1
        for stream in streams:
            await stream.send_input({"type": "http.disconnect"})
            await stream.wait(60)
        assert not job_feed.job_feeds()._feeds

    run(scenario)


def test_a_look_that_fails_for_want_of_a_database_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_feed, "POLL_SECONDS", 0.2)
    look, fails = job_feed._look, [False, True, True]

    def look_sometimes(job_id: str, users: Sequence[int]) -> job_feed.Snapshot:
        if fails and fails.pop(0):
            raise OperationalError("the database is away")
        return look(job_id, users)

    monkeypatch.setattr(job_feed, "_look", look_sometimes)

    async def scenario(world: World) -> None:
        reader = await watch(world)
        await reader.read_until("log")
        await sync_to_async(report_step)(world, 3)
        assert "Checkpoint at step 3." in await reader.read_until("history")

    run(scenario)


@pytest.mark.parametrize("text", ["", "1-2", "a-b-c", "1-2-3-4", "-1-2-3", "١-١-١", "9" * 30 + "-1-1"])
def test_a_cursor_that_spells_nothing_is_the_beginning(text: str) -> None:
    assert Cursor.parse(text) == Cursor()


def test_the_stream_is_a_row_of_the_matrix_too() -> None:
    async def scenario(world: World) -> None:
        names = {"owner": "alice", "teammate": "bob", "viewer": "vera", "outsider": "charlie"}
        for caller in CALLERS:
            client = AsyncClient()
            if caller in names:
                await client.aforce_login(await User.objects.aget(username=names[caller]))
            response = await client.get(reverse("job-stream", args=[world.job.pk]))
            assert response.status_code == expected_status("job-stream", caller), caller
            assert response["Content-Security-Policy"] == CONTENT_SECURITY_POLICY

    run(scenario)
