"""What separates a database from the code, said in a sentence, and the refusal of a database of a newer release."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.core.management.base import SystemCheckError
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder

from finetune_hub.embedded.errors import DatabaseNewer
from finetune_hub.embedded.upgrade_report import Upgrade
from finetune_hub.operations.models import Release
from finetune_hub.operations.upgrade import find_upgrade, note_release

FUTURE = ("serving", "0002_traffic")


@pytest.mark.django_db
def test_a_database_of_this_release_takes_nothing() -> None:
    found = find_upgrade()
    assert (found.pending, found.unknown, found.is_new) == ([], [], False)
    found.refuse_newer()


@pytest.mark.django_db
def test_what_will_be_done_is_said_by_app() -> None:
    recorder = MigrationRecorder(connection)
    for app, name in (("operations", "0003_plain_help_texts"), ("notifications", "0002_plain_help_texts")):
        recorder.record_unapplied(app, name)
    note_release()
    Release.objects.update(version="0.0.9")
    sentence = find_upgrade().sentence()
    assert sentence.startswith(f"Upgrading the database from finetune_hub 0.0.9 to {version('finetune_hub')}: ")
    assert "notifications 1 to 0002_plain_help_texts" in sentence
    assert "operations 1 to 0003_plain_help_texts" in sentence


def test_several_of_an_app_are_one_step() -> None:
    pending = [("jobs", "0009_a"), ("fleet", "0007_b"), ("jobs", "0010_c")]
    upgrade = Upgrade(version="2.0", found_version=None, is_new=False, pending=pending, unknown=[])
    said = "Upgrading the database from an earlier release to 2.0: 3 migrations (jobs 2 to 0010_c, fleet 1 to 0007_b)."
    assert upgrade.sentence() == said
    new = upgrade.model_copy(update={"is_new": True})
    assert new.sentence() == "Creating the tables of a new database: 3 migrations."


def test_half_a_line_is_no_line() -> None:
    upgrade = Upgrade(version="1", found_version="1", is_new=False, pending=[], unknown=[])
    assert Upgrade.read(f"A warning.\n{upgrade.line()}") is None
    assert Upgrade.read(f"A warning.\n{upgrade.line()}\nOperations to perform:\n") == upgrade


@pytest.mark.django_db
def test_releases_are_noted_when_they_change() -> None:
    Release.objects.all().delete()
    for _ in range(2):
        note_release()
    assert [str(release) for release in Release.objects.all()] == [version("finetune_hub")]


@pytest.mark.django_db
def test_a_newer_database_is_refused_whoever_migrates() -> None:
    MigrationRecorder(connection).record_applied(*FUTURE)
    Release.objects.create(version="9.1.0")
    with pytest.raises(DatabaseNewer, match=r"serving\.0002_traffic") as refused:
        find_upgrade().refuse_newer()
    assert "Install finetune_hub 9.1.0 again, or restore the backup" in str(refused.value)
    with pytest.raises(CommandError, match="The database is newer than this finetune_hub"):
        call_command("upgrade_database")
    with pytest.raises(SystemCheckError, match=r"operations\.E001"):
        call_command("migrate", skip_checks=False)
    assert run_checks() == [], "the check that needs no database is not concerned"


@pytest.fixture
def newer_database() -> Iterator[str]:
    """The URL of a database that holds nothing but the record of a migration that no code here has."""
    name = "of_a_newer_release"
    own = urlsplit(os.environ["DATABASE_URL"])
    url = urlunsplit(own._replace(path=f"/{name}"))
    with psycopg.connect(urlunsplit(own), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        with psycopg.connect(url) as database:
            database.execute("CREATE TABLE django_migrations (id serial, app text, name text, applied timestamptz)")
            insert = "INSERT INTO django_migrations (app, name, applied) VALUES (%s, %s, now())"
            database.execute(insert, FUTURE)
        yield url
        admin.execute(f"DROP DATABASE {name} (FORCE)")


def test_up_refuses_a_newer_database_and_changes_nothing(newer_database: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finetune_hub.cli.main", "up", "--home", str(tmp_path / "hub"), "--port", "0"]
    environment = {**os.environ, "DATABASE_URL": newer_database}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert "Error: The database is newer than this finetune_hub" in refused.stderr
    assert "Nothing was changed. Install the newer finetune_hub again, or restore the backup" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "Upgrading" not in refused.stdout
    assert "✓" not in refused.stdout.partition("is stopping")[0], "no part was started"
    with psycopg.connect(newer_database) as database:
        tables = database.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = database.execute("SELECT app, name FROM django_migrations").fetchall()
    assert (tables, rows) == ([("django_migrations",)], [FUTURE])
