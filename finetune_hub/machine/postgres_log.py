"""Reading what Postgres wrote to its log about the requests of a role: the time, the code, the user and the message.

Of two formats: lines with our own prefix, as the embedded Postgres writes them, and Postgres's JSON (`jsonlog`). The
statement and its values, which Postgres logs as lines of their own, are never read: they may contain secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

LINE_PREFIX = "%m [%p] code=%e user=%u "
# A login's name may have line ends, and is written as it came. With its time in full, no line fits into such a name.
_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+"
_LINE = re.compile(rf"^({_TIME}) \[\d+\] code=(\w{{5}}) user=(\S+) (?:ERROR|FATAL):  (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class LoggedError:
    at: str
    """As Postgres wrote it, with the name of the time zone."""
    code: str
    """The SQLSTATE, such as 42501: insufficient privilege."""
    user: str
    message: str


def errors_in_lines(text: str) -> Iterator[LoggedError]:
    """Yield the errors of a log whose lines begin with `LINE_PREFIX`, the oldest first."""
    for found in _LINE.finditer(text):
        yield LoggedError(*found.groups())


def errors_in_json(text: str) -> Iterator[LoggedError]:
    """Yield the errors of a `jsonlog`, the oldest first. Lines that are cut off are left out."""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("error_severity") in {"ERROR", "FATAL"}:
            yield LoggedError(*(str(entry.get(key, "")) for key in ("timestamp", "state_code", "user", "message")))
