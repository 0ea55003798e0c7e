"""Fixtures for all tests. The servers that they need start in tests/servers.py."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from django.test import TransactionTestCase
from pytest_django import DjangoDbBlocker

from tests.databases import empty_databases, migrated_once

# A shell lets what runs in its background ignore Ctrl-C, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None,
) -> Iterator[ExitStack]:
    """What pytest-django asks for before it makes the databases; it is closed once they are made."""
    with ExitStack() as making:
        making.enter_context(migrated_once())
        yield making


@pytest.fixture(scope="session")
def django_db_setup(
    django_db_modify_db_settings: ExitStack, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    with django_db_blocker.unblock():
        django_db_modify_db_settings.close()
    TransactionTestCase._fixture_teardown = empty_databases
