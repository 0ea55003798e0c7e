"""Taking a worker's database role away, whatever its owner does against it.

    lock out     it may not log in and has no password; its sessions end, again and again until there is none
    clean up     what it has made, in every database of the server
    drop         the role itself

Each step is committed before the next one: Postgres lets a role log in until that is committed. So nothing here may run
in a transaction of somebody else, and after a crash half-way, the same steps are simply taken again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import psycopg
from django.db import DatabaseError, InternalError, OperationalError, connection, transaction
from psycopg import sql
from psycopg.errors import DependentObjectsStillExist, UndefinedObject

from finetune_hub.spec.refusal import Refusal

WITHIN_SECONDS = 20.0
LARGE_OBJECTS_AT_ONCE = 1000  # Postgres locks each, and has place for some thousand locks.

Cursor: TypeAlias = "psycopg.Cursor[tuple[object, ...]]"


def lock_out(role_name: str) -> None:
    """Let the role log in no more, take its password away, and end its sessions; commits.

    Its owner may change its own password at any time. A session that has just done so holds the row that we change: we
    end it, and try again.

    Raises:
        DatabaseError: it could not be done within 20 s, or the hub may not alter the role.
    """
    statement = sql.SQL("ALTER ROLE {} NOLOGIN PASSWORD NULL CONNECTION LIMIT 0").format(sql.Identifier(role_name))
    give_up = time.monotonic() + WITHIN_SECONDS
    while True:
        end_sessions(role_name)
        try:
            with transaction.atomic(durable=True), connection.cursor() as cursor:
                cursor.execute("SET LOCAL lock_timeout = '300ms'")
                cursor.execute(statement)
            break
        except (OperationalError, InternalError):  # It waited for the row, or the row was changed meanwhile.
            if time.monotonic() > give_up:
                raise
    while end_sessions(role_name) and time.monotonic() < give_up:
        time.sleep(0.02)


def end_sessions(role_name: str) -> int:
    """End the sessions that the role has now. Returns how many there were."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE usesysid = (SELECT oid FROM pg_roles WHERE rolname = %s)",
            [role_name],
        )
        return int(cursor.fetchone()[0])


def drop_role(role_name: str) -> None:
    """Drop a role that is locked out, with everything that it has made; commits.

    Raises:
        Refusal: `role_not_dropped`: something keeps it. It stays locked out.
    """
    role = sql.Identifier(role_name)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT oid FROM pg_roles WHERE rolname = %s", [role_name])
            [oid] = cursor.fetchone() or [None]
            if oid is None:
                return
            clean_up(cursor.cursor, role_name)
            cursor.execute(
                "SELECT datname FROM pg_database WHERE datallowconn AND datname <> current_database() AND oid IN "
                "(SELECT dbid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = %s)",
                [oid],
            )
            for (database,) in cursor.fetchall():
                with _session_in(database) as elsewhere:
                    clean_up(elsewhere, role_name)
            cursor.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(role))
            # A session that passed the check just before the role was locked out.
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = %s::oid", [oid]
            )
    except (DatabaseError, psycopg.Error) as error:
        raise Refusal(
            "role_not_dropped",
            f"The worker is locked out, but Postgres does not drop its role {role_name}: {_first_line(error)}",
            "Ask a Postgres administrator to remove what keeps the role, then revoke the worker again.",
            kind="conflict",
        ) from error


def clean_up(cursor: Cursor, role_name: str) -> None:
    """Drop what the role has in the cursor's database; what others build on passes to the hub's role."""
    role = sql.Identifier(role_name)
    cursor.execute("SELECT gid FROM pg_prepared_xacts WHERE owner = %s AND database = current_database()", [role_name])
    for (gid,) in cursor.fetchall():
        cursor.execute(sql.SQL("SET ROLE {}").format(role))
        try:
            cursor.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        finally:
            cursor.execute("RESET ROLE")
    removed: object = LARGE_OBJECTS_AT_ONCE
    while removed == LARGE_OBJECTS_AT_ONCE:
        cursor.execute(
            "SELECT count(lo_unlink(oid)) FROM (SELECT oid FROM pg_largeobject_metadata "
            "WHERE lomowner = (SELECT oid FROM pg_roles WHERE rolname = %s) LIMIT %s) theirs",
            [role_name, LARGE_OBJECTS_AT_ONCE],
        )
        [removed] = cursor.fetchone() or [0]
    drop_owned = sql.SQL("DROP OWNED BY {}").format(role)
    try:
        with cursor.connection.transaction():
            cursor.execute(drop_owned)
    except DependentObjectsStillExist:
        cursor.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
        cursor.execute(drop_owned)
    except UndefinedObject:
        pass  # Somebody else revokes it at the same time.


@contextmanager
def _session_in(database: str) -> Iterator[Cursor]:
    """A session of the hub's role in another database of the server."""
    parameters = {**connection.get_connection_params(), "dbname": database}
    parameters.pop("cursor_factory", None)
    with psycopg.connect(**parameters, autocommit=True) as session, session.cursor() as cursor:
        yield cursor


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
