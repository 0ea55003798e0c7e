"""Notifications: told with what they tell of or not at all, to who wants it, over real HTTP, until they are through."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.core import mail
from django.db import connection, transaction
from django.db.models.functions import Now
from django.urls import reverse

from finetune_hub.accounts.models import AuditEvent, Role, Team, User
from finetune_hub.accounts.sealing import Unreadable, seal, unseal
from finetune_hub.jobs.lifecycle import end_job, lock_job
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.notifications import webhook
from finetune_hub.notifications.actions import connect_chat, disconnect_chat, wish_for_email
from finetune_hub.notifications.delivery import deliver_pass
from finetune_hub.notifications.models import MAX_TRIES, ChatWebhook, Notification, Wants
from finetune_hub.notifications.webhook import check_address
from finetune_hub.spec.problem import Failed
from finetune_hub.spec.refusal import Refusal
from tests.dashboard.conftest import signed_in
from tests.factories import make_job, make_member, make_team, make_user

pytestmark = pytest.mark.django_db

FAILED = Failed("bad_data", "Row 17 has no answer.", "Fix it.")


@dataclass
class Room:
    """A chat server on this machine: what it was told, and how it answers."""

    url: str
    status: int = 200
    location: str = ""
    told: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture
def room(settings: Any) -> Iterator[Room]:
    settings.PRIVATE_WEBHOOKS = True

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.told.append(json.loads(body) | {"path": self.path, "host": self.headers["Host"]})
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Room(f"http://localhost:{server.server_port}/services/T0/B0/secret")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def team(settings: Any) -> Team:
    settings.EMAIL_IS_SET_UP = True
    return make_team(make_user("alice"), role=Role.ADMIN)


@pytest.fixture
def alice(team: Team) -> User:
    return team.memberships.get().user


def connect(team: Team, room: Room, wants: Wants = Wants.EVERYTHING) -> None:
    connect_chat(team, room.url, wants, actor=team.memberships.get().user)
    Notification.objects.all().delete()  # The greeting.


def end(job: Job, state: JobState = JobState.SUCCEEDED) -> None:
    with transaction.atomic():
        end_job(lock_job(job.pk), state, "It has ended.", failed=FAILED if state == JobState.FAILED else None)


# ---- who is told what


def test_a_failed_job_reaches_mail_and_chat(team: Team, alice: User, room: Room) -> None:
    wish_for_email(alice, Wants.PROBLEMS, email="alice@example.org", actor=alice)
    connect(team, room)
    job = make_job(team)
    end(job, JobState.FAILED)
    assert (mail.outbox, room.told) == ([], [])  # Nothing leaves within the transaction.
    assert deliver_pass() == ""
    [message] = mail.outbox
    assert (message.to, message.subject) == (["alice@example.org"], "tickets-tiny: failed")
    assert message.body == f"It has ended.\nhttp://testserver/jobs/{job.pk}/"
    [told] = room.told
    assert told["text"] == f"{message.subject}\n{message.body}"
    assert told["path"] == "/services/T0/B0/secret"
    assert told["host"].startswith("localhost:")
    assert deliver_pass() == ""
    assert len(room.told) == len(mail.outbox) == 1


@pytest.mark.parametrize(
    ("wants", "state", "is_told"),
    [
        (Wants.NOTHING, JobState.FAILED, False),
        (Wants.PROBLEMS, JobState.FAILED, True),
        (Wants.PROBLEMS, JobState.SUCCEEDED, False),
        (Wants.EVERYTHING, JobState.SUCCEEDED, True),
        (Wants.EVERYTHING, JobState.CANCELLED, True),
    ],
)
def test_wishes(team: Team, alice: User, wants: Wants, state: JobState, is_told: bool) -> None:
    wish_for_email(alice, wants, email="alice@example.org", actor=alice)
    end(make_job(team), state)
    deliver_pass()
    assert bool(mail.outbox) == is_told


def test_others_jobs_and_old_teams_are_not_mailed(team: Team, alice: User) -> None:
    wish_for_email(alice, Wants.EVERYTHING, email="alice@example.org", actor=alice)
    end(make_job(team, created_by=make_member(team)))
    mine = make_job(team)
    team.memberships.filter(user=alice).delete()
    end(mine)
    assert not Notification.objects.exists()


def test_a_transition_that_is_rolled_back_tells_nothing(team: Team, room: Room) -> None:
    connect(team, room)
    job = make_job(team)
    with transaction.atomic():
        end(job)
        assert Notification.objects.exists()
        transaction.set_rollback(True)
    assert not Notification.objects.exists()
    deliver_pass()
    assert room.told == []


def test_a_room_is_greeted(team: Team, alice: User, room: Room) -> None:
    connect_chat(team, room.url, Wants.EVERYTHING, actor=alice)
    deliver_pass()
    [told] = room.told
    assert told["text"].startswith("alice has connected this room.")


# ---- until it is through


def later() -> None:
    """As if the pause were over."""
    Notification.objects.waiting().update(not_before=Now() - timedelta(seconds=1))


def test_what_fails_is_tried_again_after_a_pause(team: Team, room: Room) -> None:
    connect(team, room)
    room.status = 503
    end(make_job(team))
    assert "localhost responded with 503." in deliver_pass()
    assert deliver_pass() == ""  # It is not due.
    assert len(room.told) == 1
    room.status = 200
    later()
    assert deliver_pass() == ""
    message = Notification.objects.get()
    assert (len(room.told), message.tries, message.problem) == (2, 2, "")
    assert message.sent_at is not None


def test_pauses_grow_to_an_hour() -> None:
    pauses = [Notification(tries=tries).pause_after().total_seconds() for tries in range(MAX_TRIES)]
    assert pauses[:4] == [30, 60, 120, 240]
    assert pauses[-1] == 3600


def test_a_dead_room_is_given_up_and_the_team_sees_why(team: Team, alice: User, room: Room) -> None:
    connect(team, room)
    room.status = 404
    end(make_job(team))
    for _ in range(MAX_TRIES + 3):
        later()
        deliver_pass()
    assert len(room.told) == MAX_TRIES
    assert Notification.objects.get().given_up_at is not None
    page = signed_in(alice).get(reverse("team")).content.decode()
    assert "localhost responded with 404." in page


def test_one_that_dies_between_sending_and_noting_sends_again(
    team: Team, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(team, room)
    end(make_job(team))

    def die(url: str, text: str) -> None:
        webhook.post_text(url, text)
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune_hub.notifications.delivery.post_text", die)
    with pytest.raises(KeyboardInterrupt):
        deliver_pass()
    monkeypatch.undo()
    later()
    deliver_pass()
    assert len(room.told) == 2


@pytest.mark.django_db(transaction=True)
def test_two_passes_at_once_send_once(room: Room, settings: Any) -> None:
    team = make_team(make_user(), role=Role.ADMIN)
    connect(team, room)
    for _ in range(6):
        end(make_job(team))
    barrier = threading.Barrier(3)

    def deliver() -> None:
        barrier.wait()
        try:
            deliver_pass()
        finally:
            connection.close()

    threads = [threading.Thread(target=deliver) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(room.told) == 6


def test_a_redirect_is_not_followed(team: Team, room: Room) -> None:
    connect(team, room)
    room.status, room.location = 302, room.url
    end(make_job(team))
    assert "responded with 302" in deliver_pass()
    assert len(room.told) == 1


# ---- addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.slack.com/services/x",
        "https://127.0.0.1/x",
        "https://[::1]/x",
        "https://10.0.0.8/x",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:127.0.0.1]/x",
        "https://[64:ff9b::a00:8]/x",
        "https://0.0.0.0/x",
        "https://2130706433/x",
        "https://localhost/x",
        "https://user:password@1.1.1.1/x",
        "https://1.1.1.1:99999/x",
        "https://1.1.1.1/x\n",
        "file:///etc/passwd",
        "ftp://1.1.1.1/x",
        "https://",
        "",
    ],
)
def test_inside_addresses_are_refused(url: str) -> None:
    with pytest.raises(Refusal) as refused:
        check_address(url)
    assert refused.value.code == "invalid_webhook"


def test_a_public_address_is_taken() -> None:
    check_address("https://1.1.1.1/services/T0/B0/x")


def test_the_address_that_was_checked_is_the_one_that_is_called(
    team: Team, room: Room, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that turns inside at the time of the call gains nothing."""
    connect(team, room)
    settings.PRIVATE_WEBHOOKS = False
    end(make_job(team))
    assert "on a private network" in deliver_pass()
    assert room.told == []


# ---- the address is a secret


def test_the_address_is_never_shown_again(
    team: Team, alice: User, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = signed_in(alice)
    answer = client.post(reverse("chat-connect", args=[team.slug]), {"url": room.url, "wants": "everything"})
    assert answer.status_code == 302
    room.status = 500
    end(make_job(team))
    deliver_pass()
    with connection.cursor() as cursor:
        cursor.execute("SELECT sealed_url FROM notifications_chatwebhook")
        stored = cursor.fetchone()[0]
    pages = "".join(client.get(reverse(name)).content.decode() for name in ("team", "account", "jobs"))
    problems = "".join(Notification.objects.values_list("problem", "body").first() or [])
    records = "".join(str(event) for event in AuditEvent.objects.all())
    for text in (stored, pages, problems, records, caplog.text):
        assert "T0/B0/secret" not in text
    assert "localhost" in pages


def test_sealing(settings: Any) -> None:
    sealed = seal("https://secret")
    assert "secret" not in sealed
    assert unseal(sealed) == "https://secret"
    settings.SECRET_KEY = "another"
    with pytest.raises(Unreadable):
        unseal(sealed)


def test_disconnecting_forgets_address_and_messages(team: Team, alice: User, room: Room) -> None:
    connect(team, room)
    end(make_job(team))
    for _ in range(2):
        disconnect_chat(team, actor=alice)
    assert not ChatWebhook.objects.exists()
    assert not Notification.objects.exists()
    assert AuditEvent.objects.filter(verb="chat_disconnected").count() == 1


# ---- pages


def test_the_account_page_keeps_the_wish(team: Team, alice: User) -> None:
    client = signed_in(alice)
    wrong = client.post(reverse("email-wish"), {"email": "nowhere", "wants": "problems"})
    assert wrong.status_code == 422
    assert "is not an e-mail address" in wrong.content.decode()
    assert client.post(reverse("email-wish"), {"email": "a@example.org", "wants": "problems"}).status_code == 302
    alice.refresh_from_db()
    assert (alice.email, alice.email_wish.wants) == ("a@example.org", "problems")


def test_a_hub_without_a_mail_server_says_so(alice: User, settings: Any) -> None:
    settings.EMAIL_IS_SET_UP = False
    assert "This hub cannot send e-mail" in signed_in(alice).get(reverse("account")).content.decode()
    with pytest.raises(Refusal, match="cannot send email"):
        wish_for_email(alice, Wants.PROBLEMS, email="a@example.org", actor=alice)
