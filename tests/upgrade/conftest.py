"""A hub that an earlier commit has made and filled, started by today's code: once for all tests of this folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from finetune_hub.embedded.children import Supervisor
from finetune_hub.embedded.postgres import (
    DATABASE,
    UNSAFE_FAST_SETTINGS,
    USER,
    Postgres,
    choose_folder,
    find_binaries,
)
from tests.integration.conftest import OWN, RunningHub

HERE = Path(__file__).parent
ARCHIVES = sorted(HERE.glob("hub_of_*.tar.xz"))
CLEAN = {key: value for key, value in os.environ.items() if key not in OWN and not key.startswith("FINETUNE_HUB_")}
Keys = dict[str, set[tuple[Any, ...]]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist one process has the hub: it starts once."""
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.xdist_group("upgraded hub"))


@dataclass
class UpgradedHub:
    """A hub of an earlier commit, running today's code, and what is known of it from before."""

    running: RunningHub
    notes: dict[str, Any]  # by fill_hub.py
    files: Path  # what a user of the hub had
    keys_before: Keys  # the primary keys of every table, before today's code had seen the database

    @property
    def url(self) -> str:
        return self.running.state.url

    @property
    def postgres(self) -> Postgres:
        home = self.running.home
        return Postgres(choose_folder(home), home / "postgres_password")


@pytest.fixture(scope="session", params=ARCHIVES, ids=lambda archive: archive.name.partition(".")[0])
def hub(request: pytest.FixtureRequest) -> Iterator[UpgradedHub]:
    # Short, for the sockets in it; open to pass through, for the account that root's Postgres runs as.
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    folder.chmod(0o711)
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    (folder / "home").chmod(0o711)
    notes = json.loads((folder / "notes.json").read_text())
    one_thread = {"OMP_NUM_THREADS": "1"}  # Over matrices as tiny as these a second one only waits.
    running = RunningHub(folder / "home", CLEAN | one_thread)
    try:
        keys_before = load_database(folder)
        running.start()
        yield UpgradedHub(running, notes, folder / "files", keys_before)
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)


def load_database(folder: Path) -> Keys:
    """Load the dump into a new database in the home, as somebody would who restores a backup; what is in it."""
    home = folder / "home"
    for name in ("run", "logs"):
        (home / name).mkdir(mode=0o700)
    postgres = Postgres(choose_folder(home), home / "postgres_password", settings=UNSAFE_FAST_SETTINGS)
    supervisor = Supervisor(home / "logs")
    psql = [str(find_binaries(postgres.folder, None) / "psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]
    where = ["--host", str(postgres.socket_folder), "--username", USER, "--no-password", "--dbname", "postgres"]
    roles = (folder / "roles.sql").read_text().replace(f"CREATE ROLE {USER};\n", "")  # It is who loads them.
    try:
        supervisor.wait_until_ready(supervisor.start(postgres.program()))
        for script in (roles, (folder / "database.sql").read_text()):
            environment = {**os.environ, "PGPASSWORD": postgres.password}
            subprocess.run(
                [*psql, *where], input=script, text=True, env=environment, stdout=subprocess.PIPE, check=True
            )
        return primary_keys(postgres.url_of(DATABASE))
    finally:
        supervisor.stop()


def primary_keys(url: str) -> Keys:
    """The primary keys of every row, by table."""
    columns_of = """
        SELECT class.relname, array_agg(attribute.attname::text ORDER BY attribute.attnum)
        FROM pg_index JOIN pg_class class ON class.oid = indrelid AND relnamespace = 'public'::regnamespace
        JOIN pg_attribute attribute ON attribute.attrelid = indrelid AND attribute.attnum = ANY (indkey)
        WHERE indisprimary GROUP BY class.relname
    """
    with psycopg.connect(url) as database:
        return {
            table: set(
                database.execute(
                    sql.SQL("SELECT {} FROM {}").format(
                        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
                    )
                ).fetchall()
            )
            for table, columns in database.execute(columns_of).fetchall()
        }
