"""Row-level security: which rows a worker's own database role sees and writes (`fleet/worker_role.py`).

Tables' owner, the hub's role, is not bound by it. Anybody else who is no worker sees no row.

A worker *holds* an attempt that was assigned to it while the lease lasts, and until the end of the transaction in which
it ended it itself. It imports nothing: that is for the hub's own workers. The clock is read anew for each row, and only READ COMMITTED is let in: neither an old transaction nor
an old snapshot stretches a lease.
"""

from django.db import migrations

FUNCTIONS = {
    "worker_name()": (
        "text STABLE",
        "SELECT worker_name FROM fleet_workerrole WHERE role_name = session_user",
    ),
    "worker_id()": (
        "bigint STABLE",
        "SELECT id FROM fleet_worker WHERE name = worker_name()",
    ),
    "holds_attempt(attempt bigint)": (
        "boolean VOLATILE",
        """
        SELECT current_setting('transaction_isolation') = 'read committed' AND EXISTS (
            SELECT FROM jobs_attempt
            WHERE id = $1 AND worker_id = worker_id()
              AND (state IN ('assigned', 'running') AND lease_expires_at > clock_timestamp()
                   OR xmin = pg_current_xact_id_if_assigned()::xid))
        """,
    ),
    "had_job(job text)": (
        "boolean STABLE",
        "SELECT EXISTS (SELECT FROM jobs_attempt WHERE job_id = $1 AND worker_id = worker_id())",
    ),
    "holds_job(job text)": (
        "boolean VOLATILE",
        """
        SELECT EXISTS (SELECT FROM jobs_attempt WHERE job_id = $1 AND worker_id = worker_id() AND holds_attempt(id))
        """,
    ),
    "held_jobs()": (
        "SETOF jobs_job STABLE ROWS 4",
        """
        SELECT jobs_job.* FROM jobs_job JOIN jobs_attempt ON jobs_attempt.job_id = jobs_job.id
        WHERE worker_id = worker_id() AND jobs_attempt.state IN ('assigned', 'running')
          AND lease_expires_at > clock_timestamp()
        """,
    ),
    "in_held_attempt(artifact_prefix text)": (
        "boolean VOLATILE",
        """
        SELECT EXISTS (
            SELECT FROM jobs_attempt
            WHERE job_id = split_part($1, '/', 2) AND worker_id = worker_id()
              AND starts_with($1, 'jobs/' || job_id || '/' || number || '/') AND holds_attempt(id))
        """,
    ),
}

OWN_VERSION = """EXISTS (SELECT FROM registry_adapterversion version
                         WHERE version.id = {} AND in_held_attempt(version.artifact_prefix))"""
PUBLISHED_INTO = """EXISTS (SELECT FROM held_jobs() job
                            WHERE job.team_id = registry_adapter.team_id
                              AND job.base_model_id = registry_adapter.base_model_id
                              AND job.spec ->> 'adapter_name' = registry_adapter.name)"""

# Table → command → the rows it may see (SELECT, UPDATE, DELETE) or make (INSERT); a pair: those it changes, and into what.
POLICIES = {
    "accounts_team": {"SELECT": "id IN (SELECT team_id FROM held_jobs())"},
    "catalog_basemodel": {"SELECT": "id IN (SELECT base_model_id FROM held_jobs())"},
    "catalog_basemodelfile": {"SELECT": "EXISTS (SELECT FROM catalog_basemodel WHERE id = base_model_id)"},
    "catalog_dataset": {
        "SELECT": "EXISTS (SELECT FROM catalog_datasetversion version WHERE version.dataset_id = catalog_dataset.id)"
    },
    "catalog_datasetversion": {
        "SELECT": """id IN (SELECT dataset_version_id FROM held_jobs() job
                            JOIN jobs_jobdataset ON jobs_jobdataset.job_id = job.id)"""
    },
    "fleet_device": {"ALL": "worker_id = worker_id()"},
    "fleet_devicesample": {"ALL": "EXISTS (SELECT FROM fleet_device WHERE fleet_device.id = device_id)"},
    "fleet_worker": {"ALL": "name = worker_name()"},
    "jobs_attempt": {
        "SELECT": "worker_id = worker_id() OR holds_job(job_id)",  # How long the job has run on others.
        "UPDATE": (
            "worker_id = worker_id() AND holds_attempt(id)",
            "worker_id = worker_id() AND lease_expires_at <= clock_timestamp() + interval '1 hour'",
        ),
    },
    "jobs_checkpoint": {
        "SELECT": "holds_job(job_id)",
        "DELETE": "holds_job(job_id)",
        "INSERT": """holds_attempt(attempt_id) AND in_held_attempt(artifact_prefix)
                     AND starts_with(artifact_prefix, 'jobs/' || job_id || '/')""",
    },
    "jobs_deviceuse": {"ALL": "holds_attempt(attempt_id)"},
    # The row stays lockable after the lease: the fence locks it first, and then sees that the lease is lost.
    "jobs_job": {"SELECT": "had_job(id)", "UPDATE": ("had_job(id)", "holds_job(id)")},
    "jobs_jobdataset": {"SELECT": "job_id IN (SELECT id FROM held_jobs())"},
    "jobs_jobevent": {
        "SELECT": "holds_job(job_id)",
        "INSERT": "holds_job(job_id) AND actor_id IS NULL AND (attempt_id IS NULL OR holds_attempt(attempt_id))",
    },
    "jobs_metricpoint": {"ALL": "holds_attempt(attempt_id)"},
    "jobs_publication": {
        "SELECT": "holds_job(job_id)",
        "INSERT": f"""holds_attempt(attempt_id) AND holds_job(job_id) AND {OWN_VERSION.format("adapter_version_id")}""",
    },
    "registry_adapter": {"ALL": PUBLISHED_INTO},
    "registry_adapterfile": {
        "SELECT": "EXISTS (SELECT FROM registry_adapterversion version WHERE version.id = version_id)",
        "INSERT": OWN_VERSION.format("version_id"),
    },
    "registry_adapterversion": {
        "SELECT": """id IN (SELECT adapter_version_id FROM held_jobs())
                     OR EXISTS (SELECT FROM registry_adapter WHERE registry_adapter.id = adapter_id)""",
        "INSERT": """in_held_attempt(artifact_prefix)
                     AND EXISTS (SELECT FROM registry_adapter WHERE registry_adapter.id = adapter_id)""",
    },
    "registry_lineage": {
        "SELECT": "EXISTS (SELECT FROM registry_adapterversion version WHERE version.id = version_id)",
        "INSERT": f"""{OWN_VERSION.format("version_id")} AND parent_id IS NULL
                      AND (base_model_id IS NULL OR base_model_id IN (SELECT base_model_id FROM held_jobs()))
                      AND (dataset_version_id IS NULL OR EXISTS (
                          SELECT FROM catalog_datasetversion read WHERE read.id = dataset_version_id))""",
    },
}

WITHDRAW_GRANTS = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'finetune_hub_worker') THEN
        REVOKE ALL ON ALL TABLES IN SCHEMA public FROM finetune_hub_worker;
    END IF;
END $$;
"""


def create_functions():
    for signature, (returns, body) in FUNCTIONS.items():
        yield (
            f"CREATE FUNCTION {signature} RETURNS {returns} LANGUAGE sql SECURITY DEFINER "
            f"SET search_path = public, pg_temp AS $${body}$$;"
        )


def create_policies():
    for table, commands in POLICIES.items():
        yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
        for command, rule in commands.items():
            seen, made = rule if isinstance(rule, tuple) else (rule, None)
            clauses = f"WITH CHECK ({seen})" if command == "INSERT" else f"USING ({seen})"
            if made:
                clauses += f" WITH CHECK ({made})"
            yield f"CREATE POLICY worker_{command.lower()} ON {table} FOR {command} {clauses};"


def drop_policies():
    yield WITHDRAW_GRANTS  # First, so that nobody is ever without a policy and with a grant.
    for table, commands in POLICIES.items():
        yield f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY;"
        for command in commands:
            yield f"DROP POLICY worker_{command.lower()} ON {table};"
    for signature in reversed(FUNCTIONS):
        yield f"DROP FUNCTION {signature};"


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_scopes_and_audit"),
        ("catalog", "0005_uploads_in_parts"),
        ("fleet", "0005_worker_role"),
        ("jobs", "0007_usage_indexes_and_sweeping"),
        ("registry", "0003_model_card"),
    ]

    operations = [
        migrations.RunSQL("\n".join([*create_functions(), *create_policies()]), "\n".join(drop_policies())),
    ]
