"""What workers' roles asked Postgres for and may not have, as its own log has it.

A refused statement leaves nothing in the database, so the log is the only witness. The hub reads the end of it: of the
embedded Postgres as a file, of another server through SQL, where that writes `jsonlog` and lets the hub's role read it.
Rows that a policy hides are no error, and are not seen here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import DatabaseError, connection, transaction

from finetune_hub.fleet.models import WorkerRole
from finetune_hub.machine.postgres_log import LINE_PREFIX, LoggedError, errors_in_json, errors_in_lines

log = logging.getLogger(__name__)

READ_BYTES = 1 << 20
# Insufficient privilege, an invalid password, no permission to log in, too many connections.
CODES = {"42501", "28P01", "28000", "53300"}
HOW_TO_SEE = (
    "Let Postgres write `jsonlog` (`logging_collector`, `log_destination`), and let the hub's role read it: see "
    "docs/workers.md."
)


@dataclass(frozen=True)
class Refused:
    worker_name: str
    what: str
    """Postgres's message, such as `permission denied for table accounts_user`; never the statement."""
    times: int
    last_at: datetime


def refused_requests(within: timedelta) -> list[Refused] | None:
    """Return what invited workers were refused, the newest last. None: the log of Postgres cannot be read.

    Only the last MiB of the log is read.
    """
    errors = _logged_errors()
    if errors is None:
        return None
    workers = dict(WorkerRole.objects.values_list("role_name", "worker_name"))
    found = [error for error in errors if error.code in CODES and error.user in workers]
    refused: dict[tuple[str, str], Refused] = {}
    for error, at in zip(found, _recent_times([error.at for error in found], within), strict=True):
        if at:
            key = (workers[error.user], error.message)
            times = refused[key].times if key in refused else 0
            refused[key] = Refused(*key, times + 1, at)
    return sorted(refused.values(), key=lambda each: each.last_at)


def log_refused_requests(within: timedelta) -> None:
    """Write what invited workers were refused to this process's log."""
    for refused in refused_requests(within) or ():
        log.warning("Postgres refused the worker %s: %s (%d×)", refused.worker_name, refused.what, refused.times)


def _logged_errors() -> Iterable[LoggedError] | None:
    file = settings.HOME / "logs" / "postgres.log"
    with connection.cursor() as cursor:
        cursor.execute("SHOW log_line_prefix")
        is_ours = cursor.fetchone() == (LINE_PREFIX,)
    if is_ours and file.exists():
        with file.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - READ_BYTES))
            return errors_in_lines(stream.read().decode(errors="replace"))
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_logfile('jsonlog')")
            [name] = cursor.fetchone()
            if name is None:
                return None
            cursor.execute(
                "SELECT pg_read_binary_file(%s, greatest(0, size - %s), %s) FROM pg_stat_file(%s)",
                [name, READ_BYTES, READ_BYTES, name],
            )
            [content] = cursor.fetchone()
    except DatabaseError:
        return None
    return errors_in_json(bytes(content).decode(errors="replace"))


def _recent_times(times: list[str], within: timedelta) -> list[datetime | None]:
    """Return the times that the server wrote in its own zone; None for those that are older, or are no times."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp(), clock_timestamp() AT TIME ZONE current_setting('log_timezone')")
        now, there = cursor.fetchone()
    recent: list[datetime | None] = []
    for text in times:
        try:
            age = there - datetime.fromisoformat(text.rpartition(" ")[0])
        except (ValueError, TypeError):
            recent.append(None)
        else:
            recent.append(now - age if age < within else None)
    return recent
