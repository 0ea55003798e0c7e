"""Readers for environment variables that fail loudly: a wrong value stops the start and says what would be right."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict


class InvalidEnvironment(Exception):
    """An environment variable is missing or has a value that cannot be used."""


def text(name: str, default: str | None = None) -> str:
    """The variable's text.

    Raises:
        InvalidEnvironment: it is not set and has no default.
    """
    value = os.environ.get(name, default)
    if not value:
        raise InvalidEnvironment(f"{name} is not set. Start with `finetune-hub up`, which sets it, or give it a value.")
    return value


def optional(name: str) -> str:
    """The variable's text; empty when it is not set."""
    return os.environ.get(name, "")


def flag(name: str, default: bool) -> bool:
    """A yes or no, written 1, true, yes, 0, false or no."""
    value = os.environ.get(name, "1" if default else "0").lower()
    if value in {"1", "true", "yes"}:
        return True
    if value in {"0", "false", "no"}:
        return False
    raise InvalidEnvironment(f"{name}={value!r} is neither yes nor no. Write 1 or 0.")


def choice(name: str, choices: Sequence[str]) -> str:
    """One of the words; the first when it is not set."""
    value = os.environ.get(name) or choices[0]
    if value not in choices:
        raise InvalidEnvironment(f"{name}={value!r} is none of {', '.join(choices)}. Write one of them.")
    return value


def seconds(name: str, default: float) -> float:
    """A positive duration in seconds."""
    return _positive(name, default, "seconds")


def days(name: str, default: float) -> float:
    """A positive duration in days."""
    return _positive(name, default, "days")


def _positive(name: str, default: float, unit: str) -> float:
    value = os.environ.get(name, str(default))
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if number <= 0:
        raise InvalidEnvironment(f"{name}={value!r} is not a positive number of {unit}. Write for example {default}.")
    return number


def count(name: str, default: int) -> int:
    """A whole number from 1 up."""
    value = os.environ.get(name, str(default))
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise InvalidEnvironment(f"{name}={value!r} is no whole number above 0. Write for example {default}.")
    return int(value)


def rate(name: str, default: str) -> str:
    """How often something may be done, as Django REST framework writes it: `3000/minute`."""
    value = os.environ.get(name, default)
    if not re.fullmatch(r"[1-9][0-9]*/(second|minute|hour|day)", value):
        raise InvalidEnvironment(f"{name}={value!r} is no number a second, minute, hour or day. Write {default}.")
    return value


def words(name: str) -> list[str]:
    """Words between commas; none when it is not set."""
    return [word.strip() for word in os.environ.get(name, "").split(",") if word.strip()]


def folder(name: str, default: Path) -> Path:
    """An absolute folder; it need not exist yet."""
    return Path(os.environ.get(name) or default).expanduser().absolute()


# What a page or an address of the API may take of the database: seconds at most.
POOLED_TIMEOUTS = "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"
POOL_WAIT_SECONDS = 5.0


def database(name: str, *, pool: str) -> dict[str, object]:
    """Django's settings of a `postgresql://` URL; `?host=/folder` names a unix socket.

    Args:
        pool: The variable with the connections that the process has at most, as a web process sets it. Without it each
            thread has one of its own, which waits as long as it takes.
    """
    parts = conninfo_to_dict(text(name))
    if connections := int(os.environ.get(pool) or 0):
        parts["options"] = f"{parts.get('options') or ''} {POOLED_TIMEOUTS}".strip()
        limits = {"min_size": 1, "max_size": connections, "timeout": POOL_WAIT_SECONDS, "max_idle": 60.0}
        parts["pool"] = limits  # type: ignore[assignment]
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.pop("dbname", ""),
        "USER": parts.pop("user", ""),
        "PASSWORD": parts.pop("password", ""),
        "HOST": parts.pop("host", ""),
        "PORT": str(parts.pop("port", "") or ""),
        "OPTIONS": dict(parts),
    }


def celery_broker(redis_url: str) -> str:
    """kombu's spelling of redis-py's URL: `unix:///path?db=0` is `redis+socket:///path?virtual_host=0` there."""
    if not redis_url.startswith("unix://"):
        return redis_url
    return redis_url.replace("unix://", "redis+socket://", 1).replace("?db=", "?virtual_host=")
