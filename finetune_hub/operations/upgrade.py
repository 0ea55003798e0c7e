"""Upgrading the database: which migrations are pending, and which release upgraded it last.

A database with a migration that the code lacks belongs to a newer release. So a released migration is never renamed or
deleted; one that replaces others lists them in `replaces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from django.core.checks import CheckMessage, Error
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from finetune_hub.embedded.errors import DatabaseNewer
from finetune_hub.embedded.upgrade_report import Upgrade
from finetune_hub.operations.models import Release


def find_upgrade() -> Upgrade:
    """Compare the database with the installed code, without changing anything."""
    executor = MigrationExecutor(connection)
    loader = executor.loader
    replaced = {key for migration in loader.disk_migrations.values() for key in migration.replaces}
    plan = executor.migration_plan(loader.graph.leaf_nodes())
    return Upgrade(
        version=version("finetune_hub"),
        found_version=found_version(),
        is_new=not loader.applied_migrations,
        pending=[(migration.app_label, migration.name) for migration, _ in plan],
        unknown=sorted(set(loader.applied_migrations) - set(loader.disk_migrations) - replaced),
    )


def found_version() -> str | None:
    """Return the release that upgraded the database last."""
    if Release._meta.db_table not in connection.introspection.table_names():
        return None
    return Release.objects.order_by("-pk").values_list("version", flat=True).first()


def note_release() -> None:
    """Record the installed release as the database's, if it has changed."""
    if found_version() != (installed := version("finetune_hub")):
        Release.objects.create(version=installed)


def check_database_is_not_newer(*, databases: Sequence[str] | None = None, **_: Any) -> list[CheckMessage]:
    """Keep `manage.py migrate` away from a newer database too."""
    try:
        if databases:
            find_upgrade().refuse_newer()
    except DatabaseNewer as error:
        return [Error(error.message, hint=error.remedy, id="operations.E001")]
    return []
