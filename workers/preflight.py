"""Check before a worker starts that its three servers respond and are the hub's. Each problem comes with a remedy.

python -m workers.preflight        exit code 0: everything is ready
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import django
import redis
from django.conf import settings
from django.db import DatabaseError, OperationalError, connection
from django.db.migrations.loader import MigrationLoader

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import open_store
from finetune_hub.environment import InvalidEnvironment
from finetune_hub.spec.problem import Explained, Failed, FailureClass


class NotReady(Explained):
    """A server that the worker needs is not ready."""

    failure_class: FailureClass = "infrastructure"

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(Failed(self.failure_class, message, remedy))


def check_database() -> None:
    """Check that the database responds, has this release's tables, and that the role is this worker's or the hub's."""
    try:
        loader = MigrationLoader(connection)
        with connection.cursor() as cursor:
            cursor.execute("SELECT worker_name()")
            [invited] = cursor.fetchone()
    except OperationalError as error:
        raise NotReady(
            f"The database does not respond: {first_line(error)}",
            "Check DATABASE_URL, and that its Postgres accepts connections from this machine (listen_addresses and "
            "pg_hba.conf). If the worker's password was replaced or the worker was removed, invite it again.",
        ) from error
    except DatabaseError as error:
        raise NotReady(
            f"The database is not a hub's, or belongs to an older release: {first_line(error)}",
            "Check DATABASE_URL, and upgrade the hub before its workers.",
        ) from error
    if invited and invited != settings.WORKER_NAME:
        raise NotReady(
            f"The role in DATABASE_URL is for the worker {invited}, not for {settings.WORKER_NAME}.",
            f"Start this worker with --name {invited}, or run `finetune-hub workers invite {settings.WORKER_NAME}` on "
            "the hub's machine.",
        )
    if missing := set(loader.disk_migrations) - set(loader.applied_migrations):
        raise NotReady(
            f"This worker is newer than the hub: the database lacks {len(missing)} of its migrations.",
            "Upgrade the hub first. Its next start upgrades the database.",
        )


def check_queue() -> None:
    """Check that the queue responds."""
    try:
        with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=5, socket_timeout=5) as client:
            client.ping()
    except (redis.RedisError, ValueError) as error:
        raise NotReady(
            f"The queue does not respond: {first_line(error)}",
            "Check REDIS_URL, and that this Redis or Valkey accepts connections from this machine.",
        ) from error


def check_store() -> None:
    """Check that the store responds. A folder must exist already, because a new one would not be shared."""
    url = urlsplit(settings.ARTIFACT_URL)
    if url.scheme == "file" and not Path(unquote(url.path)).is_dir():
        raise NotReady(
            f"The artifact store {settings.ARTIFACT_URL} is not a folder on this machine.",
            "Mount the hub's folder here at the same path, or use an s3:// store for hub and workers.",
        )
    try:
        next(iter(open_store(settings.ARTIFACT_URL).keys("base-models")), None)
    except ArtifactError as error:
        raise NotReady("The artifact store cannot be read.", str(error)) from error


CHECKS: tuple[Callable[[], None], ...] = (check_database, check_queue, check_store)


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def main() -> int:
    try:
        django.setup()
        for check in CHECKS:
            check()
    except NotReady as error:
        print(f"Error: {error.message}\n{error.remedy}", file=sys.stderr)
    except InvalidEnvironment as error:
        print(f"Error: {error}", file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
