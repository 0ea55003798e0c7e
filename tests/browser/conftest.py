"""A browser, and the service under uvicorn as a process of its own: what a person meets, on the tests' database."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from django.db import connection
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright
from pytest_django import DjangoDbBlocker

PATIENCE_MS = 60_000  # For what a page will show; a busy machine is slow, and a quiet one does not wait.
expect.set_options(timeout=PATIENCE_MS)

IN_PROGRESS = "/requests-in-progress"  # Answered by tests/browser/request_counter.py.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


@pytest.fixture(scope="module")  # Not longer: Playwright's event loop runs in this thread until its end.
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs a chromium on PATH: `apt install chromium`")
    with sync_playwright() as playwright:
        # Playwright's loop runs in this thread, and Django would take its own calls for blocking ones in a coroutine.
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
        started = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield started
        started.close()
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="session")
def server_process(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The address of the service, started once: it keeps nothing that the tests' database does not hold."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with django_db_blocker.unblock():
        database = connection.get_connection_params()
    url = f"postgresql://{database.get('user', '')}:{database.get('password', '')}@/{database['dbname']}"
    environment = os.environ | {
        "DATABASE_URL": f"{url}?host={database['host']}",
        "FINETUNE_HUB_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "uvicorn", "tests.browser.request_counter:application", "--port", str(port)]
    command += ["--http", "finetune_hub.connections:PatientConnection"]
    process = subprocess.Popen([*command, "--log-level", "warning"], env=environment)
    try:
        wait_until_it_answers(process, environment["FINETUNE_HUB_URL"])
        yield environment["FINETUNE_HUB_URL"]
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def server(server_process: str, transactional_db: None) -> Iterator[str]:
    """The address of the running service, whose database this test may fill."""
    yield server_process
    wait_until_it_rests(server_process)


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/login/").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail("the service did not answer within 30 s")


def wait_until_it_rests(url: str, *, seconds: float = 30) -> None:
    """Waits for the requests of pages that are closed: emptying the tables under one ends in a deadlock."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if httpx.get(url + IN_PROGRESS).text == "0":
            return
        time.sleep(0.02)
    pytest.fail(f"the service was still at work after {seconds:.0f} s")


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, server: str) -> Iterator[OpenPage]:
    """Opens a page of some width and colour scheme, and fails the test when a console saw an error."""
    contexts, errors = [], []

    def open_one(*, width: int = 1440, scheme: str = "light", height: int = 900) -> Page:
        context = browser.new_context(
            base_url=server, viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.errors = errors
        return page

    yield open_one
    for context in contexts:
        try:
            context.close()
        except Error:
            pass
    assert without_aborts(errors) == []


def without_aborts(errors: list[str]) -> list[str]:
    """What is left without the two lines that htmx logs for a request whose page is left before the answer."""
    kept: list[str] = []
    for error in errors:
        if error.startswith("htmx:sendAbort") and kept and kept[-1].startswith("htmx:afterRequest"):
            kept.pop()
        else:
            kept.append(error)
    return kept
