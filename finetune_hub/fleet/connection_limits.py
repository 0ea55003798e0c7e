"""How many database connections each worker's role may have, so that all workers together leave enough for the hub.

    limit of a role = an equal part of half of Postgres's connections, at most 16 and at least 4

The other half is for the hub: web, control, its own worker and its commands. What Postgres reserves for superusers
belongs to neither. A worker needs one connection for its agent, one for each attempt that it runs, one for a moment for
each of its two Celery threads, and one more while it starts.
"""

from __future__ import annotations

import logging

from django.db import DatabaseError, connection, transaction
from psycopg import sql

from finetune_hub.fleet.models import Device, WorkerRole
from finetune_hub.spec.refusal import Refusal

log = logging.getLogger(__name__)

MOST, LEAST = 16, 4
BESIDES_ATTEMPTS = 4


def for_all_workers() -> int:
    """Return how many connections all workers' roles may have together."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
            " - coalesce(current_setting('reserved_connections', true)::int, 0)) / 2"
        )
        return int(cursor.fetchone()[0])


def limit_among(roles: int) -> int:
    """Return the limit of each of so many roles."""
    return max(LEAST, min(MOST, for_all_workers() // max(1, roles)))


def require_connections_for(roles: int) -> None:
    """
    Raises:
        Refusal: `too_many_workers`: so many roles could take the connections that the hub needs.
    """
    if roles * LEAST > (at_most := for_all_workers()):
        raise Refusal(
            "too_many_workers",
            f"Postgres has {at_most} connections for workers on other machines, and {roles} of them need at least "
            f"{roles * LEAST}.",
            "Raise `max_connections` of Postgres and restart it, or revoke a worker that is gone.",
            kind="conflict",
        )


def limits_in_force() -> dict[str, tuple[str, int]]:
    """Return the role and the limit in force of each invited worker that may log in, by its name; -1: no limit."""
    roles = dict(WorkerRole.objects.values_list("role_name", "worker_name"))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolname, rolconnlimit FROM pg_roles WHERE rolcanlogin AND rolname = ANY(%s)", [list(roles)]
        )
        return {roles[role]: (role, limit) for role, limit in cursor.fetchall()}


def share_connections() -> None:
    """Give every role the same limit, and end the newest sessions of a role beyond it.

    What one role refuses (it holds its own row of Postgres's catalog, or the hub may not alter it) waits for the next
    time; Health says when the limits are too high.
    """
    found = limits_in_force()
    limit = limit_among(len(found))
    for worker_name, (role, in_force) in found.items():
        if in_force == limit:
            continue
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '1s'")
                cursor.execute(
                    sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(role), sql.Literal(limit))
                )
                cursor.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE usename = %s"
                    " ORDER BY backend_start OFFSET %s) beyond",
                    [role, limit],
                )
        except DatabaseError as error:
            log.warning("the connections of the worker %s were not limited to %d: %s", worker_name, limit, error)


def short_of_connections() -> dict[str, tuple[int, int]]:
    """Return the invited workers whose limit is lower than what they may need: that need, and the limit."""
    needs: dict[str, int] = {}
    for name in Device.objects.filter(present=True).values_list("worker__name", flat=True):
        needs[name] = needs.get(name, BESIDES_ATTEMPTS) + 1
    found = {name: (needs.get(name, 0), limit) for name, (_, limit) in limits_in_force().items()}
    return {name: (need, limit) for name, (need, limit) in found.items() if 0 <= limit < need}
