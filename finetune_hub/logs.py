"""Logs: JSON lines for machines, plain lines in a terminal. Both include job and attempt ids and mask secrets.

with about(job_id=job.pk, attempt_id=attempt.pk):
    log.info("claimed")
{"at": "2026-11-25T03:20:11.482Z", "level": "INFO", "logger": "workers.agent", "message": "claimed",
 "job_id": "ftjob-…", "attempt_id": 7}
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

LogFormat = Literal["auto", "json", "plain"]

MASK = "***"
MIN_SECRET_LENGTH = 8  # Shorter texts also occur in lines without secrets.
# Patterns of secrets. The part after the last group is masked.
SECRET_SHAPES = re.compile(
    r"""(?x)
    (fth_|hf_)[A-Za-z0-9_-]{8,}               # tokens: ours, Hugging Face's
    | (/login/link/\d+/)[^/\s"'?]+            # one-time login links
    | (://[^:/@\s"']*:)[^@/\s"']+(?=@)        # passwords in URLs
    | ((?i:bearer\s+))[A-Za-z0-9._~+/=-]{8,}  # any Authorization header
    | (https://[^\s"'/]+/(?:services|hooks|api/webhooks)/)[^\s"']+  # webhook URLs of chat rooms, which give access
    """
)

_about: ContextVar[Mapping[str, Any]] = ContextVar("_about", default=MappingProxyType({}))


@contextmanager
def about(**ids: Any) -> Iterator[None]:
    """Add ids to everything that this thread logs within the block. Nested blocks add to outer ones."""
    token = _about.set({**_about.get(), **ids})
    try:
        yield
    finally:
        _about.reset(token)


def mask_secrets(text: str, known: Sequence[str] = ()) -> str:
    """Mask what looks like a secret, and known secrets."""
    for secret in known:
        text = text.replace(secret, MASK)
    return SECRET_SHAPES.sub(lambda found: next(filter(None, found.groups()), "") + MASK, text)


class Lines(logging.Formatter):
    """Formatter that prints one line per record and masks `secrets`.

    Args:
        style: `auto` is plain on a terminal, JSON elsewhere.
    """

    def __init__(self, style: LogFormat = "auto", secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self.is_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
        self.secrets = [secret for secret in secrets if len(secret) >= MIN_SECRET_LENGTH]

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(self._as_json(record) if self.is_json else self._as_text(record), self.secrets)

    def _as_json(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"at": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({**line, **_about.get()}, ensure_ascii=False, default=str)

    def _as_text(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        ids = "".join(f" {name}={value}" for name, value in _about.get().items())
        text = f"{at} {record.levelname} {record.name} {record.getMessage()}{ids}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text
