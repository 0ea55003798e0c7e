"""A crowd of wrong passwords: few are hashed at a time, and each name and address has so many attempts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher, check_password, make_password
from django.core.cache import cache
from django.test import Client
from django.urls import reverse

from finetune_hub.accounts import password_hashing, sign_in_attempts
from finetune_hub.accounts.models import User
from finetune_hub.accounts.password_hashing import HashingQueue
from finetune_hub.accounts.sign_in_attempts import ATTEMPTS, network_of
from finetune_hub.spec.refusal import Refusal
from tests.factories import make_user

PASSWORD = "correct horse"
HERE, THERE = "192.0.2.7", "192.0.2.8"


@pytest.fixture(autouse=True)
def fast_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PBKDF2PasswordHasher, "iterations", 1)


@pytest.fixture(autouse=True)
def no_attempts() -> Iterator[None]:
    shared = sign_in_attempts._redis(settings.REDIS_URL)

    def forget() -> None:
        cache.clear()
        for key in shared.scan_iter("sign-in:*"):
            shared.delete(key)

    forget()
    yield
    forget()


@pytest.fixture
def alice(db: None) -> User:
    return make_user("alice", password=PASSWORD)


def sign_in(password: str, *, name: str = "alice", address: str = HERE) -> Any:
    return Client(REMOTE_ADDR=address).post(reverse("login"), {"username": name, "password": password})


def test_few_passwords_are_hashed_at_a_time_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 at once, two are at work, four wait and get through, and all others are refused at once."""
    monkeypatch.setattr(password_hashing, "queue", HashingQueue(at_once=2, places=4, patience=30))
    go_on, all_are_in, at_work, most = threading.Event(), threading.Semaphore(0), [0], [0]

    def slow(*_: Any) -> str:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        go_on.wait(30)
        at_work[0] -= 1
        return "pbkdf2_sha256$1$salt$hash"

    monkeypatch.setattr(PBKDF2PasswordHasher, "encode", slow)

    def try_one(_: int) -> Refusal | None:
        try:
            check_password("wrong", "pbkdf2_sha256$1$salt$other")
        except Refusal as refusal:
            all_are_in.release()
            return refusal
        return None

    with ThreadPoolExecutor(40) as threads:
        answers = threads.map(try_one, range(40))
        for _ in range(34):
            assert all_are_in.acquire(timeout=30)
        go_on.set()
        refusals = [refusal for refusal in answers if refusal]
    assert most[0] == 2
    assert {(refusal.code, refusal.kind) for refusal in refusals} == {("busy", "unavailable")}
    waits = [refusal.retry_after_seconds or 0 for refusal in refusals]
    assert min(waits) >= 1
    assert max(waits) > min(waits)  # They do not come back all at once.


def test_one_that_waits_too_long_is_refused() -> None:
    queue = HashingQueue(at_once=1, places=1, patience=0.01)
    with queue.slot(), pytest.raises(Refusal, match="busy"), queue.slot():
        pass
    with queue.slot():
        pass


def test_every_hash_goes_through_the_queue_and_older_ones_are_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    older = PBKDF2PasswordHasher().encode(PASSWORD, "salt")
    assert check_password(PASSWORD, older)
    full = HashingQueue(at_once=1, places=0, patience=0)
    monkeypatch.setattr(password_hashing, "queue", full)
    with full.slot():
        for hashes in (make_password, lambda password: check_password(password, older)):
            with pytest.raises(Refusal, match="busy"):
                hashes(PASSWORD)


def test_the_pages_say_that_the_hub_is_busy(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    full = HashingQueue(at_once=1, places=0, patience=0)
    monkeypatch.setattr(password_hashing, "queue", full)
    browser = Client()
    browser.force_login(alice)
    change = {"old_password": PASSWORD, "new_password1": "another horse", "new_password2": "another horse"}
    with full.slot():
        answers = [sign_in(PASSWORD), sign_in(PASSWORD, name="nobody")]
        answers.append(browser.post(reverse("password-change"), change))
        assert browser.get(reverse("account")).status_code == 200
    for response in answers:
        assert response.status_code == 503
        assert int(response["Retry-After"]) >= 1
        assert "more passwords came at once" in response.content.decode()
    assert sign_in(PASSWORD).status_code == 302


def test_a_busy_hub_is_no_wrong_password(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    full = HashingQueue(at_once=1, places=0, patience=0)
    monkeypatch.setattr(password_hashing, "queue", full)
    with full.slot():
        for _ in range(ATTEMPTS + 1):
            assert sign_in(PASSWORD).status_code == 503
    assert sign_in(PASSWORD).status_code == 302


def test_a_name_has_so_many_attempts_from_an_address(alice: User, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "finetune_hub.accounts.sign_in_attempts"):
        for _ in range(ATTEMPTS):
            assert sign_in("wrong guess").status_code == 200
        cache.clear()  # Another web process, which has counted none of them.
        refused = sign_in(PASSWORD)
    assert refused.status_code == 429
    assert 0 < int(refused["Retry-After"]) <= sign_in_attempts.WINDOW_SECONDS
    assert "Too many attempts to sign in" in refused.content.decode()
    told = [line for line in caplog.messages if "name 'alice', address 192.0.2.7" in line]
    assert len(told) == ATTEMPTS + 1
    assert not any("wrong guess" in line or PASSWORD in line for line in caplog.messages)
    assert sign_in(PASSWORD, address=THERE).status_code == 302  # Nobody locks the rightful user out.
    assert sign_in("wrong guess", name="bob").status_code == 200


def test_the_right_password_starts_the_count_again(alice: User) -> None:
    for _ in range(3):
        for _ in range(ATTEMPTS - 1):
            sign_in("wrong guess")
        assert sign_in(PASSWORD).status_code == 302


def test_without_redis_people_still_sign_in_and_each_process_counts(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "REDIS_URL", "unix:///nowhere/valkey.sock?db=0")
    assert sign_in(PASSWORD).status_code == 302
    for _ in range(ATTEMPTS):
        assert sign_in("wrong guess").status_code == 200
    assert sign_in(PASSWORD).status_code == 429


def test_an_ipv6_network_is_one_address() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.7") == network_of("192.0.2.7")
