"""The tests' databases: migrated once and cloned for every other process, and emptied after a test that commits."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from django.conf import settings
from django.db import connection, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import TransactionTestCase

TEMPLATE = "migrated_for_tests"
WRITTEN_BY_MIGRATE = {"django_content_type", "auth_permission"}


@contextmanager
def migrated_once() -> Iterator[None]:
    """Around the making of this process's database: the first one migrates, the others clone what it made."""
    folder = Path(os.environ["FINETUNE_HUB_HOME"]).parent  # Of all processes of this run.
    with (folder / "databases.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = folder / "template-is-made"
        if made.exists():
            settings.DATABASES["default"].setdefault("TEST", {})["TEMPLATE"] = TEMPLATE
        yield
        if not made.exists():
            name = connection.settings_dict["NAME"]
            connection.close()  # Postgres clones a database that nobody uses.
            with connection._nodb_cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{TEMPLATE}" TEMPLATE "{name}"')
            made.touch()


def empty_databases(case: TransactionTestCase) -> None:
    """Delete what a test committed; in place of `TransactionTestCase._fixture_teardown`.

    Django's `flush` truncates every table and then writes all content types and permissions anew.
    """
    for alias in case._databases_names(include_mirrors=False):
        _empty(connections[alias])


def _empty(connection: BaseDatabaseWrapper) -> None:
    quote = connection.ops.quote_name
    with connection.cursor() as cursor:
        tables = _tables(connection.alias)
        cursor.execute(" UNION ALL ".join(f"(SELECT '{table}' FROM {quote(table)} LIMIT 1)" for table in tables))
        deletions = [f"DELETE FROM {quote(table)};" for (table,) in cursor.fetchall()]
        # As a replica Postgres looks at no foreign key, and runs no trigger that keeps rows from being changed.
        cursor.execute(
            f"SET session_replication_role = replica; {' '.join(deletions)} SET session_replication_role = origin"
        )


@cache
def _tables(alias: str) -> list[str]:
    names = connections[alias].introspection.django_table_names(only_existing=True, include_views=False)
    return [name for name in names if name not in WRITTEN_BY_MIGRATE]
