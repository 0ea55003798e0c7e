"""Log lines: what they are about, and what never stands in them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.test import Client

from finetune_hub.accounts.actions import create_token, login_link
from finetune_hub.logs import Lines, about
from tests.factories import make_team, make_user

log = logging.getLogger("tests.logs")


@pytest.fixture
def lines() -> Iterator[StringIO]:
    """What goes through the settings' own handler, as JSON."""
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(Lines("json", settings.LOGGING["formatters"]["lines"]["secrets"]))
    logging.getLogger().addHandler(handler)
    yield written
    logging.getLogger().removeHandler(handler)


def parsed(lines: StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines.getvalue().splitlines()]


def test_a_line_says_what_it_is_about(lines: StringIO) -> None:
    with about(job_id="ftjob-1"):
        with about(attempt_id=7):
            log.warning("the lease of %s is lost", "gpu-1")
        log.warning("queued")
    log.warning("idle")
    first, second, third = parsed(lines)
    assert {key: first[key] for key in ("level", "logger", "message", "job_id", "attempt_id")} == {
        "level": "WARNING",
        "logger": "tests.logs",
        "message": "the lease of gpu-1 is lost",
        "job_id": "ftjob-1",
        "attempt_id": 7,
    }
    assert first["at"].endswith("Z")
    assert "attempt_id" not in second
    assert "job_id" not in third


def test_threads_do_not_mix(lines: StringIO) -> None:
    barrier = threading.Barrier(2)

    def work(number: int) -> None:
        with about(attempt_id=number):
            barrier.wait()
            log.warning("attempt %s", number)

    threads = [threading.Thread(target=work, args=[number]) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(line["message"] == f"attempt {line['attempt_id']}" for line in parsed(lines))
    assert len(parsed(lines)) == 2


def test_a_traceback_stays_one_line(lines: StringIO) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("it broke")
    [line] = parsed(lines)
    assert "ValueError: two\nlines" in line["exception"]


def test_plain_lines_are_for_eyes() -> None:
    record = logging.LogRecord("workers.agent", logging.INFO, "", 0, "claimed", None, None)
    with about(attempt_id=7):
        assert Lines("plain").format(record).endswith(" INFO workers.agent claimed attempt_id=7")


@pytest.mark.parametrize(
    ("text", "secret", "rest"),
    [
        ("token fth_abcdefghijklmnop is bad", "abcdefghijklmnop", "is bad"),
        ("HF_TOKEN=hf_AbCdEfGhIjKlMn!", "AbCdEfGhIjKlMn", "!"),
        ('GET /login/link/12/c1abc-9f8e7d/?next=/ HTTP/1.1"', "c1abc-9f8e7d", 'HTTP/1.1"'),
        ("postgresql://hub:hunter22@db/hub is away", "hunter22", "@db/hub is away"),
        ("redis://:hunter22@cache:6379", "hunter22", "@cache:6379"),
        ("Authorization: Bearer abc.def.ghi-jkl", "abc.def.ghi-jkl", ""),
        ("POST https://hooks.slack.com/services/T0/B0/XyZ said 404", "T0/B0/XyZ", "said 404"),
    ],
)
@pytest.mark.parametrize("style", ["json", "plain"])
def test_what_looks_like_a_secret_is_masked(style: Any, text: str, secret: str, rest: str) -> None:
    line = Lines(style).format(logging.LogRecord("x", logging.INFO, "", 0, "%s", (text,), None))
    assert secret not in line
    assert "***" in line
    assert (json.loads(line)["message"] if style == "json" else line).endswith(rest)


@pytest.mark.django_db
def test_real_secrets_stay_out_of_the_log(lines: StringIO) -> None:
    """A token in a header, a login link, the key and the passwords of the settings, logged by whoever is careless."""
    alice = make_user("alice", last_login=None, password=None)
    team = make_team(alice)
    _, secret = create_token(alice, team, name="ci")
    link = login_link(alice)
    Client().get("/api/nothing", headers={"Authorization": f"Bearer {secret}"})
    Client().get(link.removeprefix(settings.PUBLIC_URL))
    logging.getLogger("django.request").warning("%s %s %s", secret, link, settings.DATABASES["default"]["PASSWORD"])
    text = lines.getvalue()
    assert "django.request" in text
    for word in (secret, link.split("/")[-2], settings.DATABASES["default"]["PASSWORD"]):
        assert not word or word not in text


def test_a_process_of_ours_speaks_json_where_nobody_watches() -> None:
    """Celery and Django leave the log as the settings have it."""
    code = (
        "import django, logging; django.setup();"
        "from finetune_hub.celery import app; app.log.setup(loglevel='INFO');"
        "logging.getLogger('celery.worker').info('ready')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    [line] = [json.loads(line) for line in ran.stderr.splitlines()]
    assert (line["logger"], line["message"]) == ("celery.worker", "ready")
