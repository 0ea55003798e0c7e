"""Public identifiers: a prefix that says what it is, and 96 random bits."""

from __future__ import annotations

import secrets

ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # No 0/o, 1/l/i: ids are read aloud and typed.
RANDOM_LENGTH = 20  # 31^20 > 2^96
# A worker's name, which is also the name of its queue.
WORKER_NAME = r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?"


def new_id(prefix: str) -> str:
    """Return a new identifier such as `ftjob-7k2m…`."""
    return f"{prefix}-" + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_LENGTH))
