"""Streams under the real server: uvicorn, every middleware, and one thread a request."""

from __future__ import annotations

import time
from contextlib import ExitStack

import httpx
from django.db import connection
from django.test import Client
from django.urls import reverse

from finetune_hub.jobs.lifecycle import EventDraft, add_events
from tests.dashboard.conftest import make_world

STREAMS = 5


def test_idle_streams_hold_no_database_connection_and_still_hear_news(server: str) -> None:
    world = make_world()
    client = Client()
    client.force_login(world.alice)
    cookies = {name: morsel.value for name, morsel in client.cookies.items()}
    url = reverse("job-stream", args=[world.job.pk])
    with ExitStack() as stack:
        http = stack.enter_context(httpx.Client(base_url=server, cookies=cookies, timeout=20))
        streams = [stack.enter_context(http.stream("GET", url)) for _ in range(STREAMS)]
        lines = [stream.iter_lines() for stream in streams]
        for each in lines:
            assert "event: log" in each
        wait_for_connections(1)  # The one that counts.
        add_events(world.job, [EventDraft("Something new.")])
        for each in lines:
            assert any("Something new." in line for line in each)


def wait_for_connections(number: int) -> None:
    """The server closes its connection just after it has sent what it read."""
    deadline = time.monotonic() + 5
    while (found := count_connections()) != number:
        assert time.monotonic() < deadline, f"{found} connections to the database instead of {number}"
        time.sleep(0.05)


def count_connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])
