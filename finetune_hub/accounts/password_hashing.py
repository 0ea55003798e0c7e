"""How many passwords a process hashes at a time: few, so that a crowd of wrong ones leaves the other pages alone.

    at work   at most `at_once`
    waiting   at most `places`, each of which takes one of the web process's request slots
    others    503 with `Retry-After`, at once: each gets a time of its own, spaced as hashes end

A hash takes most of a second of one core, on purpose. Everything that hashes or checks a password comes through here,
because Django asks its hasher for all of them: sign-in, with or without a user of that name, and new passwords.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from django.contrib.auth.hashers import PBKDF2PasswordHasher

from finetune_hub.spec.refusal import Refusal

AT_ONCE = min(2, max(1, (os.cpu_count() or 1) // 2))
PLACES = 4
PATIENCE_SECONDS = 15.0
HASH_SECONDS = 0.5  # About what one takes, for the times that are promised.
LONGEST_PROMISE_SECONDS = 60.0


class HashingQueue:
    """Lets a few threads in at a time, has a few wait, and refuses the others."""

    def __init__(
        self, *, at_once: int, places: int, patience: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._slots = threading.BoundedSemaphore(at_once)
        self._lock = threading.Lock()
        self._at_once, self._places, self._patience, self._clock = at_once, places, patience, clock
        self._waiting = 0
        self._promised = 0.0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a slot, and hold it.

        Raises:
            Refusal: `busy`: there is no place to wait, or it took too long.
        """
        if not self._slots.acquire(blocking=False):
            self._wait()
        try:
            yield
        finally:
            self._slots.release()

    def _wait(self) -> None:
        with self._lock:
            if self._waiting >= self._places:
                raise self._refusal()
            self._waiting += 1
        try:
            found = self._slots.acquire(timeout=self._patience)
        finally:
            with self._lock:
                self._waiting -= 1
        if not found:
            with self._lock:
                raise self._refusal()

    def _refusal(self) -> Refusal:
        now = self._clock()
        self._promised = max(self._promised + HASH_SECONDS / self._at_once, now + HASH_SECONDS * max(1, self._places))
        seconds = math.ceil(min(self._promised - now, LONGEST_PROMISE_SECONDS))
        return Refusal(
            "busy",
            "The hub is busy: more passwords came at once than it checks.",
            f"Try again in {seconds} s.",
            kind="unavailable",
            retry_after_seconds=seconds,
        )


queue = HashingQueue(at_once=AT_ONCE, places=PLACES, patience=PATIENCE_SECONDS)


class BoundedPBKDF2(PBKDF2PasswordHasher):
    """Django's own hasher, whose hashes it reads and writes, a few at a time."""

    def encode(self, password: str, salt: str, iterations: int | None = None) -> str:
        with queue.slot():
            return super().encode(password, salt, iterations)
