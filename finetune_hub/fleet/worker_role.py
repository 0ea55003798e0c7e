"""Database roles of workers on other machines: each can only read and write its own attempts.

This module grants column privileges to one group; row-level security decides which rows
(`jobs/migrations/…_worker_policies.py`). Both list only what `worker_port` and the worker's own reads need. To let a
worker read or write something new, add it to both. The hub's role owns the tables and is not restricted by them.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from django.db import DatabaseError, connection, transaction
from django.db.models import QuerySet
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from finetune_hub.fleet.connection_limits import limit_among, require_connections_for, share_connections
from finetune_hub.fleet.models import WorkerRole
from finetune_hub.fleet.role_removal import drop_role, lock_out
from finetune_hub.spec.refusal import Refusal

GROUP = "finetune_hub_worker"
# A worker's transactions take milliseconds. One that stays open may hold locks that the hub waits for.
TRANSACTION_AT_MOST_SECONDS = 10.0

READABLE = (
    "accounts_team catalog_basemodel catalog_basemodelfile catalog_dataset catalog_datasetversion django_migrations "
    "fleet_device fleet_devicesample fleet_worker jobs_attempt jobs_checkpoint jobs_deviceuse jobs_job jobs_jobdataset "
    "jobs_jobevent jobs_metricpoint jobs_publication registry_adapter registry_adapterfile registry_adapterversion "
    "registry_lineage"
).split()
INSERTABLE = (
    "fleet_device fleet_devicesample fleet_worker jobs_checkpoint jobs_jobevent jobs_metricpoint jobs_publication "
    "registry_adapter registry_adapterfile registry_adapterversion registry_lineage"
).split()
DELETABLE = ["jobs_checkpoint"]
CHANGEABLE = {
    "fleet_device": "cores driver memory_bytes name other_processes present quarantine_reason quarantined_at "
    "temperature_celsius",
    "fleet_worker": "cached_revisions canary_at free_bytes heartbeat_at hostname labels registered_at removed_at "
    "version",
    "jobs_attempt": "events_offset failure_class failure_message failure_remedy finished_at lease_expires_at "
    "lease_token log_tail progress_at resumed_from_step started_at state",
    "jobs_deviceuse": "released_at",
    "jobs_job": "address adjustments eta_seconds event_count excluded_devices failure_class failure_message "
    "failure_remedy finished_at fruitless_attempts not_before progress_unit result started_at state step total_steps "
    "waiting_reason",
    "registry_adapter": "created_at",  # Locking a row requires the right to update one of its columns.
}


@dataclass(frozen=True)
class Invitation:
    """What a worker needs to join. The password is shown once."""

    worker_name: str
    role_name: str
    password: str = field(repr=False)


def invite_worker(name: str) -> Invitation:
    """Create the worker's database role, or give its existing role a new password and end its sessions; commits.

    Raises:
        Refusal: `may_not_create_roles`: the hub's own role is not allowed to; `too_many_workers`.
    """
    found = WorkerRole.objects.filter(worker_name=name).first()
    if found and role_exists(found.role_name):
        _lock_out(found.role_name)  # A session of the old password could change the new one.
    elif found:  # Its role was dropped, but not its row.
        found.delete()
        found = None
    with transaction.atomic():
        return _let_in(name, found)


def _let_in(name: str, found: WorkerRole | None) -> Invitation:
    roles = WorkerRole.objects.count() + (found is None)
    require_connections_for(roles)
    # Role names are shared by the whole server, which may have other hubs.
    role = found or WorkerRole(worker_name=name, role_name=f"worker_{name[:40]}_{secrets.token_hex(4)}")
    password = secrets.token_urlsafe(32)
    with connection.cursor() as cursor:
        # Only a verifier of the password goes to the server, because its log may contain statements.
        verifier = cursor.connection.pgconn.encrypt_password(
            password.encode(), role.role_name.encode(), b"scram-sha-256"
        )
        names = {"role": sql.Identifier(role.role_name), "group": sql.Identifier(GROUP)}
        values = {"password": sql.Literal(verifier.decode()), "limit": sql.Literal(limit_among(roles))}
        try:
            renew_grants()
            if found:
                statement = "ALTER ROLE {role} LOGIN CONNECTION LIMIT {limit} PASSWORD {password}"
            else:
                role.save()
                statement = "CREATE ROLE {role} LOGIN CONNECTION LIMIT {limit} PASSWORD {password} IN ROLE {group}"
            cursor.execute(sql.SQL(statement).format(**names, **values))
            if not found:  # So that the hub may end the role's sessions.
                cursor.execute(sql.SQL("GRANT {role} TO CURRENT_USER").format(**names))
        except DatabaseError as error:
            if isinstance(error.__cause__, InsufficientPrivilege):
                raise may_not_create_roles() from error
            raise
    transaction.on_commit(share_connections, robust=True)
    return Invitation(name, role.role_name, password)


def _lock_out(role_name: str) -> None:
    try:
        lock_out(role_name)
    except DatabaseError as error:
        if isinstance(error.__cause__, InsufficientPrivilege):
            raise may_not_create_roles() from error
        raise


def may_not_create_roles() -> Refusal:
    user = sql.Identifier(connection.settings_dict["USER"]).as_string(None)
    return Refusal(
        "may_not_create_roles",
        f"The hub's database role {user} may not create roles for workers.",
        f"Ask a Postgres administrator to run `ALTER ROLE {user} CREATEROLE;`, then invite the worker again.",
        kind="conflict",
    )


def revoke_role(name: str) -> bool:
    """Lock a worker out at once, end its sessions, and drop its role with what it has made; commits.

    False: it has none. Its attempts end with their leases. Whatever it interrupts, it can be called again.

    Raises:
        Refusal: `role_not_dropped`: the worker is locked out, but something keeps its role; `may_not_create_roles`.
    """
    role = WorkerRole.objects.filter(worker_name=name).first()
    if role is None:
        return False
    if role_exists(role.role_name):
        _lock_out(role.role_name)
        drop_role(role.role_name)
    role.delete()
    transaction.on_commit(share_connections, robust=True)
    return True


def role_exists(role_name: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", [role_name])
        return bool(cursor.fetchall())


def invited_workers() -> QuerySet[WorkerRole, str]:
    """Return the names of workers with their own role."""
    return WorkerRole.objects.values_list("worker_name", flat=True)


def policies_are_on() -> bool:
    """Return whether the migration with the policies is applied. Without it, a grant would expose every row."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regprocedure('worker_name()') IS NOT NULL")
        return bool(cursor.fetchone()[0])


def acts_as_worker() -> bool:
    """Return whether this process uses the database with a worker's own role."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT worker_name() IS NOT NULL")
        return bool(cursor.fetchone()[0])


def renew_grants() -> None:
    """Grant the group what this release's workers need; repeated after migrations, which may change tables."""
    group = sql.Identifier(GROUP)
    privileges = {
        "SELECT": READABLE,
        "INSERT": INSERTABLE,
        "DELETE": DELETABLE,
        **{f"UPDATE ({', '.join(columns.split())})": [table] for table, columns in CHANGEABLE.items()},
    }
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [GROUP_LOCK])
        cursor.execute("SELECT count(*) FROM pg_roles WHERE rolname = %s", [GROUP])
        if cursor.fetchone() == (0,):
            cursor.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(group))
        cursor.execute(sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {}").format(group))
        for privilege, tables in privileges.items():
            cursor.execute(
                sql.SQL("GRANT {privilege} ON {tables} TO {group}").format(
                    privilege=sql.SQL(privilege), tables=sql.SQL(", ").join(map(sql.Identifier, tables)), group=group
                )
            )
        database = sql.Identifier(connection.settings_dict["NAME"])
        cursor.execute(sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(database))
    close_large_objects()


def close_large_objects() -> None:
    """Take the functions that make or fill large objects from everybody but superusers.

    Large objects are no table: any role may fill the server's disk with them. Only the functions' owner may close them,
    who is a superuser; Health says where the hub's role is none.
    """
    for function in open_large_object_functions():
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(
                    sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC, {}").format(
                        sql.SQL(function), sql.Identifier(GROUP)
                    )
                )
        except DatabaseError as error:
            if not isinstance(error.__cause__, InsufficientPrivilege):
                raise
            return


def open_large_object_functions() -> list[str]:
    """Return the functions that make or fill large objects and that workers' roles may call, as `name(types)`."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT oid::regprocedure::text FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = ANY(%s)
              AND has_function_privilege((SELECT oid FROM pg_roles WHERE rolname = %s), oid, 'EXECUTE')
            ORDER BY 1
            """,
            [LARGE_OBJECT_FUNCTIONS, GROUP],
        )
        return [name for (name,) in cursor.fetchall()]


LARGE_OBJECT_FUNCTIONS = "lo_creat lo_create lo_import lo_from_bytea lo_put lowrite lo_truncate lo_truncate64".split()
GROUP_LOCK = 0x46484752  # Any fixed number: the key of the advisory lock.


def end_long_transactions() -> int:
    """End sessions of workers' roles with a long transaction or an advisory lock. Returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
            WHERE usename IN (SELECT role_name FROM fleet_workerrole) AND datname = current_database()
              AND (xact_start < clock_timestamp() - make_interval(secs => %s)
                   OR pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory'))
            """,
            [TRANSACTION_AT_MOST_SECONDS],
        )
        [count] = cursor.fetchone()
    return int(count)
