"""Readers for environment variables. An invalid value stops the start with a message on how to fix it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict


class InvalidEnvironment(Exception):
    """An environment variable is missing or has an invalid value."""


def text(name: str, default: str | None = None) -> str:
    """Return the variable's text.

    Raises:
        InvalidEnvironment: it is not set and has no default.
    """
    value = os.environ.get(name, default)
    if not value:
        raise InvalidEnvironment(f"{name} is not set. Set it, or start with `finetune-hub up`, which sets it.")
    return value


def optional(name: str) -> str:
    """Return the variable's text; empty if it is not set."""
    return os.environ.get(name, "")


def flag(name: str, default: bool) -> bool:
    """Parse a flag: 1, true, yes, 0, false or no."""
    value = os.environ.get(name, "1" if default else "0").lower()
    if value in {"1", "true", "yes"}:
        return True
    if value in {"0", "false", "no"}:
        return False
    raise InvalidEnvironment(f"{name}={value!r} is neither yes nor no. Use 1 or 0.")


def choice(name: str, choices: Sequence[str]) -> str:
    """Return one of the choices; the first if it is not set."""
    value = os.environ.get(name) or choices[0]
    if value not in choices:
        raise InvalidEnvironment(f"{name}={value!r} is not one of {', '.join(choices)}. Use one of them.")
    return value


def seconds(name: str, default: float) -> float:
    """Parse a positive duration in seconds."""
    return _positive(name, default, "seconds")


def days(name: str, default: float) -> float:
    """Parse a positive duration in days."""
    return _positive(name, default, "days")


def _positive(name: str, default: float, unit: str) -> float:
    value = os.environ.get(name, str(default))
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if number <= 0:
        raise InvalidEnvironment(f"{name}={value!r} is not a positive number of {unit}. Use, for example, {default}.")
    return number


def count(name: str, default: int) -> int:
    """Parse a whole number, 1 or more."""
    value = os.environ.get(name, str(default))
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise InvalidEnvironment(f"{name}={value!r} is not a whole number above 0. Use, for example, {default}.")
    return int(value)


def rate(name: str, default: str) -> str:
    """Parse a rate in the notation of Django REST framework: `3000/minute`."""
    value = os.environ.get(name, default)
    if not re.fullmatch(r"[1-9][0-9]*/(second|minute|hour|day)", value):
        raise InvalidEnvironment(f"{name}={value!r} is not a number per second, minute, hour or day. Use {default}.")
    return value


def words(name: str) -> list[str]:
    """Parse comma-separated words; none if it is not set."""
    return [word.strip() for word in os.environ.get(name, "").split(",") if word.strip()]


def folder(name: str, default: Path) -> Path:
    """Return an absolute folder, which need not exist yet."""
    return Path(os.environ.get(name) or default).expanduser().absolute()


# Database timeouts of pages and API endpoints.
POOLED_TIMEOUTS = "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"
POOL_WAIT_SECONDS = 5.0


def database(name: str, *, pool: str) -> dict[str, object]:
    """Return Django's settings for a `postgresql://` URL; `?host=/folder` selects a Unix socket.

    Args:
        pool: The variable with the size of the connection pool, which web processes set. Without it, each thread has
            its own connection without timeouts.
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
    """Convert a redis-py URL to kombu's spelling: `unix:///path?db=0` → `redis+socket:///path?virtual_host=0`."""
    if not redis_url.startswith("unix://"):
        return redis_url
    return redis_url.replace("unix://", "redis+socket://", 1).replace("?db=", "?virtual_host=")
