"""Connections to the database under the real server: uvicorn, every middleware, and one thread a request."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import httpx
from django.db import connection
from django.test import Client
from django.urls import reverse

from finetune_hub.dashboard.job_feed import LOOK_SECONDS
from finetune_hub.jobs.lifecycle import EventDraft, add_events
from tests.browser.conftest import IN_PROGRESS, wait_until_it_rests
from tests.dashboard.conftest import World, make_world

STREAMS = 40
CONNECTIONS_AT_MOST = 16 + 8 + 1  # Of the server's pool (finetune_hub/asgi.py), and the one that counts them.


def test_idle_streams_hold_no_database_connection_and_still_hear_news(server: str) -> None:
    world = make_world()
    url = reverse("job-stream", args=[world.job.pk])
    with ExitStack() as stack:
        http = stack.enter_context(client_of(world, server))
        streams = [stack.enter_context(http.stream("GET", url)) for _ in range(STREAMS)]
        lines = [stream.iter_lines() for stream in streams]
        for each in lines:
            assert "event: log" in each
        assert count_connections() <= CONNECTIONS_AT_MOST < STREAMS
        add_events(world.job, [EventDraft("Something new.")])
        for each in lines:
            assert any("Something new." in line for line in each)


def test_error_pages_leave_no_connection_open(server: str) -> None:
    """Django renders them in threads that nobody tidies, so they may not ask the database."""
    world = make_world()
    with client_of(world, server) as http:
        for path in ("/adapters/none/", "/jobs/none/stream", "/no/such/page", "/workers/none/drain") * 10:
            assert http.get(path).status_code in {404, 405}
        assert count_connections() <= CONNECTIONS_AT_MOST


def test_a_request_counts_until_its_page_is_closed(server: str) -> None:
    """The tables are emptied after a test only once this count is zero."""
    world = make_world()
    with client_of(world, server) as http, http.stream("GET", reverse("job-stream", args=[world.job.pk])):
        assert httpx.get(server + IN_PROGRESS).text == "1"
    wait_until_it_rests(server)
    assert httpx.get(server + IN_PROGRESS).text == "0"


def test_a_stream_ends_whenever_its_client_leaves(server: str) -> None:
    """Django loses a cancellation that comes while a middleware is at work: some of these leave just then."""
    world = make_world()
    with client_of(world, server) as http:
        request = http.build_request("GET", reverse("job-stream", args=[world.job.pk]))
        address = request.url.host, request.url.port
    head = [f"{name}: {value}" for name, value in request.headers.items()]
    for number in range(150):
        with socket.create_connection(address) as connected:
            connected.sendall("\r\n".join([f"GET {request.url.path} HTTP/1.1", *head, "\r\n"]).encode())
            time.sleep(number % 50 / 1500)
    wait_until_it_rests(server, seconds=LOOK_SECONDS / 3)


def client_of(world: World, server: str) -> httpx.Client:
    """A client that alice has signed in with."""
    browser = Client()
    browser.force_login(world.alice)
    cookies = {name: morsel.value for name, morsel in browser.cookies.items()}
    return httpx.Client(base_url=server, cookies=cookies, timeout=20)


def count_connections() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])
