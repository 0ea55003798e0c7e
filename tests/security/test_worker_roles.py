"""What a worker's role can do to the hub's Postgres, and that it is taken away from a worker that resists."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import ProgrammingError, connection
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from finetune_hub.fleet import connection_limits, role_removal
from finetune_hub.fleet.connection_limits import for_all_workers, limits_in_force, share_connections
from finetune_hub.fleet.models import WorkerRole
from finetune_hub.fleet.refused_requests import log_refused_requests, refused_requests
from finetune_hub.fleet.worker_role import (
    Invitation,
    close_large_objects,
    invite_worker,
    open_large_object_functions,
    revoke_role,
)
from finetune_hub.machine.postgres_log import errors_in_json, errors_in_lines
from finetune_hub.operations.health import Finding, look
from finetune_hub.spec.refusal import Refusal
from tests.factories import make_worker
from tests.workers.test_worker_role import as_role, session

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def invitation() -> Iterator[Invitation]:
    yield invite_worker("gpu-7")
    revoke_role("gpu-7")


def run(statement: str, *names: str) -> list[tuple[Any, ...]]:
    """Run a statement as the hub; each `{}` is a name."""
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
        return cursor.fetchall() if cursor.description else []


def roles_called(name: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolname FROM pg_roles WHERE rolname = %s", [name])
        return cursor.fetchall()


def findings(part: str) -> list[Finding]:
    return [finding for finding in look() if finding.part == part]


# ---- connections


def test_all_workers_together_leave_connections_for_the_hub() -> None:
    """At their limits, which one worker after another takes in full."""
    invitations, sessions = [invite_worker(f"gpu-{number}") for number in range(3)], []
    try:
        for invitation in invitations:
            with suppress(psycopg.OperationalError):
                while True:
                    sessions.append(session(invitation))
                    assert len(sessions) <= for_all_workers()
        assert len(sessions) >= 3 * connection_limits.LEAST
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('max_connections')::int")
            assert cursor.fetchone()[0] - len(sessions) >= for_all_workers()
    finally:
        for each in sessions:
            each.close()
        for invitation in invitations:
            revoke_role(invitation.worker_name)


def test_a_new_worker_takes_its_part_from_those_that_have_more(
    invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "for_all_workers", lambda: 16)
    share_connections()
    sessions = [session(invitation) for _ in range(10)]
    invite_worker("gpu-8")
    try:
        assert {limit for _, limit in limits_in_force().values()} == {8}
        time.sleep(0.1)
        assert sum(is_open(each) for each in sessions) == 8
        with pytest.raises(psycopg.OperationalError, match="too many connections for role"):
            session(invitation)
    finally:
        for each in sessions:
            each.close()
        revoke_role("gpu-8")
    assert limits_in_force()["gpu-7"][1] == 16, "it gets them back"


def is_open(session: psycopg.Connection[tuple[Any, ...]]) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def test_a_role_of_an_earlier_release_is_limited_and_health_says_so_until_then(invitation: Invitation) -> None:
    run("ALTER ROLE {} CONNECTION LIMIT 50", invitation.role_name)
    [told] = findings("Connections")
    assert (told.level, "50" in told.message) == ("bad", True)
    share_connections()
    assert not findings("Connections")


def test_a_worker_too_many_is_refused(monkeypatch: pytest.MonkeyPatch, invitation: Invitation) -> None:
    monkeypatch.setattr(connection_limits, "for_all_workers", lambda: 7)
    with pytest.raises(Refusal) as refused:
        invite_worker("gpu-8")
    assert refused.value.code == "too_many_workers"
    assert [role.worker_name for role in WorkerRole.objects.all()] == ["gpu-7"]
    invite_worker("gpu-7")  # It has its part already.


def test_health_names_a_worker_whose_attempts_could_wait_for_connections(
    invitation: Invitation, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_worker("gpu-7", devices=2)
    assert not findings("Connections")
    monkeypatch.setattr(connection_limits, "for_all_workers", lambda: 5)
    share_connections()
    [told] = findings("Connections")
    assert told.level == "warning"
    assert told.message.startswith("gpu-7 may need 6 connections")


# ---- large objects


def test_a_worker_makes_no_large_object(invitation: Invitation) -> None:
    with session(invitation) as hostile:
        for statement in (
            "SELECT lo_create(0)",
            "SELECT lo_creat(-1)",
            "SELECT lo_from_bytea(0, 'x')",
            "SELECT lo_import('/etc/hostname')",
            "SELECT lo_put(1, 0, 'x')",
            "SELECT lowrite(0, 'x')",
            "SELECT lo_truncate64(0, 1099511627776)",
        ):
            with pytest.raises(InsufficientPrivilege, match="permission denied for function"):
                hostile.execute(statement)


def test_health_says_where_large_objects_could_not_be_closed(invitation: Invitation) -> None:
    run("GRANT EXECUTE ON FUNCTION lo_create(oid) TO PUBLIC")
    try:
        [told] = findings("Large objects")
        assert told.level == "warning"
        assert "REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM PUBLIC;" in told.remedy
        run("CREATE ROLE modest LOGIN PASSWORD 'modest'")
        with as_role("modest", "modest"):
            close_large_objects()
            assert open_large_object_functions() == ["lo_create(oid)"], "without an error"
    finally:
        close_large_objects()
        run("DROP ROLE IF EXISTS modest")
    assert not findings("Large objects")


# ---- what it asks for


@pytest.fixture
def server_log(settings: Any) -> Path:
    """The log of the tests' own Postgres, which `up` keeps in the home."""
    settings.HOME = Path(os.environ["FINETUNE_HUB_HOME"]).with_name("home")
    file = settings.HOME / "logs" / "postgres.log"
    if not file.exists():
        pytest.skip("the tests run with a Postgres of somebody else")
    return file


@pytest.mark.usefixtures("server_log")
def test_what_a_worker_may_not_have_is_logged_and_in_health(
    invitation: Invitation, caplog: pytest.LogCaptureFixture
) -> None:
    assert not findings("Refused requests")
    with session(invitation) as hostile:
        for _ in range(2):
            with pytest.raises(InsufficientPrivilege):
                hostile.execute("SELECT 'fth_secret' FROM accounts_user WHERE username = 'alice'")
        with suppress(InsufficientPrivilege):
            hostile.execute("DROP POLICY worker_all ON fleet_worker")
    with pytest.raises(psycopg.OperationalError):
        session(with_password(invitation, "guessed"))
    told = [finding.message for finding in findings("Refused requests")]
    assert len(told) == 3
    assert told[0].startswith(
        "Postgres refused gpu-7 2 times in the last day: permission denied for table accounts_user."
    )
    assert "must be owner of" in told[1]
    assert "password authentication failed" in told[2]
    log_refused_requests(within=timedelta(minutes=1))
    assert "Postgres refused the worker gpu-7: permission denied for table accounts_user (2×)" in caplog.text
    assert "fth_secret" not in "".join(told) + caplog.text
    assert refused_requests(within=timedelta(microseconds=1)) == []


def test_a_line_that_fits_into_the_name_of_a_login_is_none() -> None:
    """Postgres writes the first 63 bytes of the name as they came, line ends among them."""
    forged = "20261130 21 U [1] code=42501 user=worker_a_12345678 ERROR:  x"
    assert len(forged) < 63
    assert list(errors_in_lines(f"2026-11-30 21:00:00.123 UTC [1] code=28P01 user=\n{forged} FATAL:  no\n")) == []
    assert list(errors_in_lines(f"2026-11-30 21:00:00.123 UTC {forged[14:]}\n"))


@pytest.mark.usefixtures("server_log")
def test_what_the_hub_and_others_are_refused_is_no_worker_s(invitation: Invitation) -> None:
    run("CREATE ROLE modest LOGIN PASSWORD 'modest'")
    try:
        with as_role("modest", "modest"), pytest.raises(ProgrammingError):
            run("SELECT FROM accounts_user")
    finally:
        run("DROP ROLE modest")
    assert not findings("Refused requests")


def test_health_says_where_the_log_cannot_be_read(invitation: Invitation, settings: Any, tmp_path: Path) -> None:
    settings.HOME = tmp_path
    [told] = findings("Refused requests")
    assert told.level == "ok"
    assert "jsonlog" in told.remedy


def test_the_log_of_another_server_is_read_as_json() -> None:
    lines = [
        '{"timestamp":"2026-11-30 21:00:00.123 UTC","user":"w","state_code":"42501","error_severity":"ERROR",'
        '"message":"permission denied for table x","statement":"SELECT secret"}',
        '{"timestamp":"2026-11-30 21:00:00.123 UTC","error_severity":"LOG","message":"checkpoint"}',
        '{"timestamp":"2026-11-30 21:0',
    ]
    [found] = errors_in_json("\n".join(lines))
    assert (found.user, found.code, found.message) == ("w", "42501", "permission denied for table x")


# ---- revoking


class Resistance:
    """The worker's owner: connects again and again, changes the password, and keeps transactions open that hold it."""

    def __init__(self, invitation: Invitation) -> None:
        self.invitation, self.passwords = invitation, [invitation.password]
        self.sessions: list[psycopg.Connection[tuple[Any, ...]]] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._resist, args=[number]) for number in range(3)]

    def __enter__(self) -> Resistance:
        holding = session(self.invitation)
        holding.autocommit = False
        self.sessions.append(holding)
        self._change_password(holding)  # Uncommitted: it holds the role's row in the catalog.
        for thread in self._threads:
            thread.start()
        time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for each in self.sessions:
            each.close()

    def _change_password(self, by: psycopg.Connection[tuple[Any, ...]]) -> None:
        statement = sql.SQL("ALTER ROLE {} PASSWORD 'mine'").format(sql.Identifier(self.invitation.role_name))
        by.execute(statement)

    def _resist(self, number: int) -> None:
        while not self._ended.is_set():
            with suppress(psycopg.Error):
                again = session(self.invitation)
                self.sessions.append(again)
                again.execute("SET lock_timeout = '100ms'")
                again.execute("SELECT pg_advisory_lock_shared(7)")
                with suppress(psycopg.errors.LockNotAvailable):
                    self._change_password(again)
                again.autocommit = False
                again.execute("SELECT FROM fleet_worker FOR UPDATE")
            time.sleep(0.01)


def with_password(invitation: Invitation, password: str) -> Invitation:
    return Invitation(invitation.worker_name, invitation.role_name, password)


def test_a_worker_that_resists_is_revoked(invitation: Invitation) -> None:
    with Resistance(invitation):
        assert revoke_role("gpu-7")
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", [invitation.role_name])
            assert cursor.fetchone() == (0,)
    for password in (invitation.password, "mine"):
        with pytest.raises(psycopg.OperationalError):
            session(with_password(invitation, password))
    assert not roles_called(invitation.role_name)
    assert not WorkerRole.objects.exists()


def test_a_password_that_it_gave_itself_does_not_survive_a_new_invitation(invitation: Invitation) -> None:
    with Resistance(invitation):
        again = invite_worker("gpu-7")
        for password in (invitation.password, "mine"):
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                session(with_password(invitation, password))
        session(again).close()


def test_whatever_the_role_has_made_goes_with_it(invitation: Invitation) -> None:
    """As a role of a server that lets it make things: here it is let, by hand."""
    run("GRANT CREATE ON SCHEMA public TO {}", invitation.role_name)
    run("GRANT EXECUTE ON FUNCTION lo_create(oid) TO {}", invitation.role_name)
    with session(invitation) as hostile:
        hostile.execute("CREATE TABLE mine (x int); CREATE TABLE shared (x int); CREATE TYPE mood AS ENUM ('sad')")
        hostile.execute("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        hostile.execute("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
        hostile.execute("SELECT count(lo_create(0)) FROM generate_series(1, 2500)")
        role = sql.Identifier(invitation.role_name)
        hostile.execute(sql.SQL("ALTER ROLE {} SET work_mem = '1GB'").format(role))
    run("CREATE VIEW ours AS SELECT * FROM shared")  # Something of ours depends on it.
    try:
        assert revoke_role("gpu-7")
        assert not roles_called(invitation.role_name)
        assert run("SELECT FROM pg_largeobject_metadata") == []
        assert run("SELECT tableowner FROM pg_tables WHERE tablename = 'shared'") == [
            (connection.settings_dict["USER"],)
        ]
    finally:
        run("DROP VIEW IF EXISTS ours")
        run("DROP TABLE IF EXISTS mine, shared; DROP TYPE IF EXISTS mood; DROP FUNCTION IF EXISTS f")
        close_large_objects()


def test_what_it_has_made_in_another_database_goes_too(invitation: Invitation) -> None:
    parts = connection.settings_dict
    with psycopg.connect(
        host=parts["HOST"],
        port=parts["PORT"] or None,
        dbname="postgres",
        user=invitation.role_name,
        password=invitation.password,
        autocommit=True,
    ) as elsewhere:
        elsewhere.execute("SELECT lo_from_bytea(0, 'x')")
        assert revoke_role("gpu-7")
    assert not roles_called(invitation.role_name)


def test_a_hub_that_is_no_superuser_revokes_too() -> None:
    run("CREATE ROLE modest LOGIN CREATEROLE PASSWORD 'modest'")
    run("GRANT ALL ON ALL TABLES IN SCHEMA public TO modest; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO modest")
    try:
        with as_role("modest", "modest"):  # As `invite_worker` does.
            run("CREATE ROLE worker_x LOGIN PASSWORD 'mine'; GRANT worker_x TO CURRENT_USER")
            WorkerRole.objects.create(worker_name="x", role_name="worker_x")
        run("GRANT EXECUTE ON FUNCTION lo_create(oid) TO PUBLIC")
        invitation = Invitation("x", "worker_x", "mine")
        with session(invitation) as hostile:
            hostile.execute("SELECT lo_create(0); ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC")
            hostile.execute("ALTER ROLE worker_x PASSWORD 'changed'")
            with as_role("modest", "modest"):
                assert revoke_role("x")
            assert not is_open(hostile)
        assert not roles_called("worker_x")
        assert run("SELECT FROM pg_largeobject_metadata") == []
    finally:
        run("REVOKE EXECUTE ON FUNCTION lo_create(oid) FROM PUBLIC")
        for role in ("worker_x", "modest"):
            if roles_called(role):
                run("DROP OWNED BY {}", role)
                run("DROP ROLE {}", role)


@pytest.mark.parametrize("step", ["end_sessions", "clean_up"])
def test_a_crash_half_way_leaves_it_locked_out_and_revoking_goes_on(
    invitation: Invitation, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = getattr(role_removal, step), []

    def crash(*arguments: Any) -> Any:
        calls.append(step)
        if step == "clean_up" or len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(role_removal, step, crash)
    with pytest.raises(KeyboardInterrupt):
        revoke_role("gpu-7")
    monkeypatch.undo()
    with pytest.raises(psycopg.OperationalError):
        session(invitation)
    assert WorkerRole.objects.filter(worker_name="gpu-7").exists()
    assert revoke_role("gpu-7")
    assert not roles_called(invitation.role_name)
    assert not revoke_role("gpu-7")


def test_a_role_that_was_dropped_by_hand_is_revoked_and_invited_again(invitation: Invitation) -> None:
    run("DROP ROLE {}", invitation.role_name)
    again = invite_worker("gpu-7")
    session(again).close()
    run("DROP ROLE {}", again.role_name)
    assert revoke_role("gpu-7")
    assert not WorkerRole.objects.exists()
