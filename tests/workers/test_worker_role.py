"""A worker's own database role: its work succeeds, and with the same credentials nothing else does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from django.db.models.functions import Now
from django.db.utils import ProgrammingError
from psycopg.errors import AdminShutdown, InsufficientPrivilege

from finetune_hub.fleet.actions import remove_worker
from finetune_hub.fleet.models import Worker, WorkerRole
from finetune_hub.fleet.worker_role import Invitation, end_long_transactions, invite_worker, revoke_role
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Attempt, AttemptState, Checkpoint, DeviceUse, Job, JobState
from finetune_hub.jobs.news import tell_of_ended_jobs
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.worker_port import DeviceReading, DeviceReport, Lease, LeaseLost
from finetune_hub.notifications.models import EmailWish, Notification
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.problem import Failed
from finetune_hub.spec.refusal import Refusal
from tests.factories import make_adapter_version, make_attempt, make_job, make_team, make_user, make_worker
from tests.integration.conftest import wait_until
from tests.jobs.test_fence import FILES, RESULT, STEP
from workers.inputs import dataset_files
from workers.kinds.training import seconds_left
from workers.preflight import NotReady, check_database

pytestmark = pytest.mark.django_db(transaction=True)

DEVICE = DeviceReport(kind="cpu", index=0, name="A processor", memory_bytes=1 << 30)


@pytest.fixture
def invitation() -> Iterator[Invitation]:
    yield invite_worker("gpu-7")
    revoke_role("gpu-7")


@contextmanager
def as_role(role: str, password: str) -> Iterator[None]:
    """Django's connection is this role's, as it is in the worker's own process."""
    before = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update(USER=role, PASSWORD=password)
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict.update(before)


@contextmanager
def as_worker(invitation: Invitation) -> Iterator[None]:
    with as_role(invitation.role_name, invitation.password):
        yield


def session(invitation: Invitation) -> psycopg.Connection[tuple[Any, ...]]:
    """A session of somebody who has the worker's credentials, and writes SQL by hand."""
    parts = connection.settings_dict
    return psycopg.connect(
        host=parts["HOST"],
        port=parts["PORT"] or None,
        dbname=parts["NAME"],
        user=invitation.role_name,
        password=invitation.password,
        autocommit=True,
    )


def join() -> Worker:
    return worker_port.register_worker("gpu-7", hostname="far", version="0.1.0", devices=[DEVICE])


def claim(job: Job, invitation: Invitation, **columns: Any) -> Lease:
    """The job's attempt on gpu-7, claimed by the worker through its own role."""
    with as_worker(invitation):
        worker = join()
    attempt = make_attempt(job, worker, **columns)
    with as_worker(invitation):
        assert worker_port.assigned_attempts(worker) == [attempt.pk]
        lease = worker_port.claim_attempt(attempt.pk, worker=worker)
    assert lease is not None
    return lease


# ---- what it needs


def test_a_training_from_claim_to_publication(invitation: Invitation) -> None:
    make_adapter_version(team := make_team(make_user()))
    job = make_job(team)
    lease = claim(job, invitation)
    with as_worker(invitation):
        assert worker_port.renew_lease(lease) is False, "nobody wishes it to stop"
        attempt = Attempt.objects.select_related("job__base_model", "job__adapter_version").get(pk=lease.attempt_id)
        assert attempt.devices.get().name == "A processor"
        assert len(dataset_files(attempt.job)) == 1
        assert attempt.job.base_model.manifest()
        assert [str(version.dataset) for version in attempt.job.dataset_versions.select_related("dataset")]
        worker_port.record_events(lease, [STEP], start=0, end=10)
        worker_port.record_log_tail(lease, "hello")
        for step in (1, 2, 3):
            prefix = f"{attempt.artifact_prefix}/checkpoints/step-{step}"
            worker_port.record_checkpoint(lease, step=step, artifact_prefix=prefix, files=FILES)
        worker_port.record_resume(lease, 3)
        published = worker_port.publish_adapter(
            lease,
            artifact_prefix=f"{attempt.artifact_prefix}/adapter",
            files=FILES,
            result=RESULT,
            verification={},
            model_card="# It",
        )
    job.refresh_from_db()
    assert job.state == JobState.SUCCEEDED
    assert published.number == 2, "it counts the versions that others published"
    assert [file.path for file in published.files.all()] == ["adapter_model.safetensors"]
    assert Checkpoint.objects.filter(job=job).count() == worker_port.KEPT_CHECKPOINTS
    assert not DeviceUse.objects.filter(released_at=None).exists()


def test_an_evaluation_and_failures(invitation: Invitation) -> None:
    team = make_team(make_user())
    version = make_adapter_version(team)
    evaluation = claim(make_job(team, kind="evaluate", adapter_version=version, spec={}), invitation)
    with as_worker(invitation):
        seen = Attempt.objects.select_related("job__adapter_version").get(pk=evaluation.attempt_id).job.adapter_version
        assert seen is not None
        assert len(seen.manifest()) == 2
        worker_port.succeed(evaluation, {"accuracy": 1.0})

    for failure_class in ("out_of_memory", "worker_lost"):
        lease = claim(make_job(team), invitation)
        with as_worker(invitation):
            worker_port.fail(lease, Failed(failure_class, "It ended.", "Try again."))
    lease = claim(make_job(team), invitation)
    with as_worker(invitation):
        assert seconds_left(Attempt.objects.select_related("job").get(pk=lease.attempt_id).job) is None
        worker_port.stop(lease, was_asked=True)

    retried = make_job(team)
    lease = claim(retried, invitation)
    with as_worker(invitation):
        worker_port.fail(lease, Failed("infrastructure", "The disk is full.", "Fix it."))
    retried.refresh_from_db()
    assert retried.state == JobState.QUEUED
    assert retried.events.count() == 3


def test_a_device_that_failed_a_job_is_excluded_though_the_role_sees_no_other_worker(invitation: Invitation) -> None:
    make_worker("other")
    job = make_job(make_team(make_user()))
    lease = claim(job, invitation)
    device = Attempt.objects.get(pk=lease.attempt_id).devices.get()
    with as_worker(invitation):
        worker_port.fail(lease, Failed("infrastructure", "The disk is full.", "Fix it."))
    Job.objects.filter(pk=job.pk).update(not_before=Now())
    assert schedule_pass() == 1
    job.refresh_from_db()
    assert job.excluded_devices == [device.pk]
    assert job.attempts.get(finished_at=None).worker.name == "other"


def test_the_state_of_its_machine(invitation: Invitation) -> None:
    with as_worker(invitation):
        worker = join()
        worker_port.beat(worker, free_bytes=1 << 40, cached_revisions=["0" * 64])
        worker_port.consume_canary(worker.name)
        worker_port.record_readings(
            worker, [DeviceReading(kind="cpu", index=0, utilisation=0.5, fault="It is broken.")]
        )
        join()
    device = worker.devices.get()
    assert device.quarantine_reason == "It is broken."
    assert device.samples.count() == 1


def test_news_of_its_jobs_are_told_by_the_reconciler_once(invitation: Invitation) -> None:
    job = make_job(make_team(make_user(email="alice@example.org")))
    EmailWish.objects.create(user=job.created_by, wants="everything")
    lease = claim(job, invitation)
    with as_worker(invitation):
        worker_port.fail(lease, Failed("diverged", "It diverged.", "Lower it."))
    assert not Notification.objects.exists()
    tell_of_ended_jobs()
    tell_of_ended_jobs()
    told = Notification.objects.get()
    assert told.user == job.created_by
    assert "It diverged." in told.body


def test_a_removed_worker_loses_its_role(invitation: Invitation) -> None:
    with as_worker(invitation):
        worker = join()
    Worker.objects.filter(pk=worker.pk).update(heartbeat_at=Now() - timedelta(hours=1))
    remove_worker(worker, actor=make_user(is_staff=True))
    with pytest.raises(psycopg.OperationalError):
        session(invitation)


def test_imports_are_for_the_hubs_own_workers(invitation: Invitation) -> None:
    with as_worker(invitation):
        join()
    job = make_job(make_team(make_user()), kind="import", spec={"source": "folder:tiny"})
    assert schedule_pass() == 0
    own = make_worker("box")
    assert schedule_pass() == 1
    assert job.attempts.get().worker == own


def test_a_lost_lease_is_said_as_on_any_worker(invitation: Invitation) -> None:
    lease = claim(make_job(make_team(make_user())), invitation)
    Attempt.objects.filter(pk=lease.attempt_id).update(lease_expires_at=Now() - timedelta(seconds=1))
    with as_worker(invitation):
        assert worker_port.events_offset(lease) == 0
        with pytest.raises(LeaseLost):
            worker_port.record_log_tail(lease, "late")
        with pytest.raises(LeaseLost):
            worker_port.renew_lease(lease)


# ---- what it must not


@dataclass
class Scene:
    """The worker holds one attempt; another worker holds another team's job, which has published before."""

    invitation: Invitation
    mine: Attempt
    ended: Attempt
    other: Attempt
    published: AdapterVersion

    def fill(self, statement: str) -> str:
        mine, other = self.mine.job, self.other.job
        return statement.format(
            mine=self.mine.pk,
            job=mine.pk,
            prefix=self.mine.artifact_prefix,
            ended=self.ended.pk,
            ended_job=self.ended.job_id,
            other=self.other.pk,
            other_job=other.pk,
            other_prefix=self.other.artifact_prefix,
            other_team=other.team_id,
            other_base=other.base_model_id,
            other_worker=self.other.worker_id,
            version=self.published.pk,
            adapter=self.published.adapter_id,
            file=self.published.files.all()[0].pk,
        )


@pytest.fixture
def scene(invitation: Invitation) -> Scene:
    mine = claim(make_job(make_team(make_user())), invitation)
    worker = Worker.objects.get(name="gpu-7")
    ended = make_attempt(
        make_job(make_team(make_user())), worker, state=AttemptState.SUCCEEDED, finished_at=Now(), lease_token=None
    )
    other_team = make_team(make_user())
    published = make_adapter_version(other_team)
    other = make_attempt(make_job(other_team), make_worker("other"))
    assert worker_port.claim_attempt(other.pk, worker=other.worker)
    return Scene(invitation, Attempt.objects.get(pk=mine.attempt_id), ended, other, published)


DENIED = "permission denied"
NOT_YOURS = "row-level security"

HOSTILE = {
    "read users": ("SELECT * FROM accounts_user", DENIED),
    "read tokens": ("SELECT * FROM accounts_apitoken", DENIED),
    "read sessions": ("SELECT * FROM django_session", DENIED),
    "read memberships": ("SELECT * FROM accounts_membership", DENIED),
    "read the audit log": ("SELECT * FROM accounts_auditevent", DENIED),
    "read other workers' roles": ("SELECT * FROM fleet_workerrole", DENIED),
    "read hashes of passwords": ("SELECT * FROM pg_authid", DENIED),
    "read a file of the server": ("SELECT pg_read_file('/etc/passwd')", DENIED),
    "run a program on the server": ("COPY (SELECT 1) TO PROGRAM 'cat'", DENIED),
    "see another team": ("SELECT FROM accounts_team WHERE id = {other_team}", 0),
    "see another team's job": ("SELECT FROM jobs_job WHERE id = '{other_job}'", 0),
    "see another worker": ("SELECT FROM fleet_worker WHERE id = {other_worker}", 0),
    "see another worker's attempt and its lease": ("SELECT FROM jobs_attempt WHERE id = {other}", 0),
    "see another team's rows": ("SELECT FROM catalog_datasetversion WHERE id IN (SELECT dataset_version_id FROM "
        "jobs_jobdataset WHERE job_id = '{other_job}') OR dataset_id IN (SELECT id FROM catalog_dataset "
        "WHERE team_id = {other_team})", 0),
    "see another team's base model": ("SELECT FROM catalog_basemodel WHERE id = '{other_base}'", 0),
    "see another team's adapter": ("SELECT FROM registry_adapterversion WHERE id = {version}", 0),
    "see another job's history": ("SELECT FROM jobs_jobevent WHERE job_id = '{other_job}'", 0),
    "see rows of a job that it had once": (
        "SELECT FROM catalog_datasetversion WHERE dataset_id IN (SELECT dataset_version_id::text FROM jobs_jobdataset "
        "WHERE job_id = '{ended_job}')", 0),
    "update another worker's attempt": ("UPDATE jobs_attempt SET log_tail = 'x' WHERE id = {other}", 0),
    "steal another worker's attempt": ("UPDATE jobs_attempt SET worker_id = worker_id() WHERE id = {other}", DENIED),
    "go on with an ended attempt": ("UPDATE jobs_attempt SET state = 'running', finished_at = NULL, "
        "lease_token = gen_random_uuid(), lease_expires_at = now() + interval '1 minute' WHERE id = {ended}", 0),
    "take a lease for ever": ("UPDATE jobs_attempt SET lease_expires_at = 'infinity' WHERE id = {mine}", NOT_YOURS),
    "make itself an attempt": ("INSERT INTO jobs_attempt (job_id, number, worker_id, state, lease_expires_at) "
        "VALUES ('{other_job}', 9, worker_id(), 'assigned', now() + interval '1 minute')", DENIED),
    "move its attempt to another job": ("UPDATE jobs_attempt SET job_id = '{other_job}' WHERE id = {mine}", DENIED),
    "set its own job's team": ("UPDATE jobs_job SET team_id = {other_team} WHERE id = '{job}'", DENIED),
    "change what its job trains": ("UPDATE jobs_job SET spec = '{{}}' WHERE id = '{job}'", DENIED),
    "change another team's job": ("UPDATE jobs_job SET step = 9 WHERE id = '{other_job}'", 0),
    "change a job that it had once": ("UPDATE jobs_job SET result = '{{}}' WHERE id = '{ended_job}'", NOT_YOURS),
    "make a job": ("INSERT INTO jobs_job (id) VALUES ('x')", DENIED),
    "delete its job": ("DELETE FROM jobs_job WHERE id = '{job}'", DENIED),
    "write another job's history": ("INSERT INTO jobs_jobevent (job_id, number, level, message) "
        "VALUES ('{other_job}', 99, 'info', 'All is well.')", NOT_YOURS),
    "speak in a user's name": ("INSERT INTO jobs_jobevent (job_id, number, level, message, actor_id) "
        "VALUES ('{job}', 99, 'info', 'Cancelled.', 1)", NOT_YOURS),
    "rewrite history": ("UPDATE jobs_jobevent SET message = '' WHERE job_id = '{job}'", DENIED),
    "write another attempt's curve": ("INSERT INTO jobs_metricpoint (attempt_id, step, epoch, loss, learning_rate, "
        "grad_norm, tokens, supervised_tokens, seconds, peak_memory_bytes) VALUES ({other}, 1, 1, 1, 1, 1, 1, 1, 1, 1)",
        NOT_YOURS),
    "give another job a checkpoint": ("INSERT INTO jobs_checkpoint (job_id, attempt_id, step, artifact_prefix, "
        "manifest) VALUES ('{other_job}', {mine}, 1, '{prefix}/checkpoints/1', '[]')", NOT_YOURS),
    "point a checkpoint at another job's files": ("INSERT INTO jobs_checkpoint (job_id, attempt_id, step, "
        "artifact_prefix, manifest) VALUES ('{job}', {mine}, 1, '{other_prefix}/checkpoints/1', '[]')", NOT_YOURS),
    "delete another job's checkpoints": ("DELETE FROM jobs_checkpoint WHERE job_id = '{other_job}'", 0),
    "insert a publication for another job": ("INSERT INTO jobs_publication (job_id, attempt_id, step, kind, "
        "adapter_version_id) VALUES ('{other_job}', {other}, 1, 'final', {version})", NOT_YOURS),
    "publish another team's version as its own": ("INSERT INTO jobs_publication (job_id, attempt_id, step, kind, "
        "adapter_version_id) VALUES ('{job}', {mine}, 1, 'final', {version})", NOT_YOURS),
    "publish into another team's adapter": ("INSERT INTO registry_adapterversion (adapter_id, number, method, step, "
        "artifact_prefix, size_bytes, base_model_revision, chat_template_sha256, training_spec, summary, verification, "
        "model_card) VALUES ('{adapter}', 9, 'lora', 1, '{prefix}/adapter', 1, '', '', '{{}}', '{{}}', '{{}}', '')",
        NOT_YOURS),
    "make an adapter for another team": ("INSERT INTO registry_adapter (id, team_id, name, base_model_id) "
        "VALUES ('ad-x', {other_team}, 'tickets-tiny', '{other_base}')", NOT_YOURS),
    "change a published version": ("UPDATE registry_adapterversion SET step = 4 WHERE id = {version}", DENIED),
    "change a published file's hash": ("UPDATE registry_adapterfile SET sha256 = '' WHERE id = {file}", DENIED),
    "add a file to a published version": ("INSERT INTO registry_adapterfile (version_id, path, size_bytes, sha256) "
        "VALUES ({version}, 'run.py', 1, '')", NOT_YOURS),
    "exchange a base model": ("UPDATE catalog_basemodel SET artifact_prefix = '{prefix}/model'", DENIED),
    "read mails to others": ("SELECT * FROM notifications_notification", DENIED),
    "read a team's Hugging Face token": ("SELECT * FROM accounts_hubtoken", DENIED),
    "undrain itself": ("UPDATE fleet_worker SET drain_requested = false", DENIED),
    "take another worker's name": ("UPDATE fleet_worker SET name = 'other'", DENIED),
    "beat for another worker": ("UPDATE fleet_worker SET heartbeat_at = now() WHERE id = {other_worker}", 0),
    "join under another name": ("INSERT INTO fleet_worker (name, hostname, version, drain_requested) "
        "VALUES ('third', 'x', 'x', false)", NOT_YOURS),
    "rename another worker's device": ("UPDATE fleet_device SET name = 'x' WHERE worker_id = {other_worker}", 0),
    "lend a device in another worker's name": ("UPDATE fleet_device SET worker_id = {other_worker}", DENIED),
    "release another attempt's device": ("UPDATE jobs_deviceuse SET released_at = now() WHERE attempt_id = {other}", 0),
    "make a table": ("CREATE TABLE mine ()", DENIED),
    "make a temporary table": ("CREATE TEMPORARY TABLE mine ()", DENIED),
    "make a function": ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", DENIED),
    "drop a policy": ("DROP POLICY worker_all ON fleet_worker", "must be owner"),
    "switch the policies off": ("ALTER TABLE jobs_job DISABLE ROW LEVEL SECURITY", "must be owner"),
    "empty a table": ("TRUNCATE jobs_checkpoint", DENIED),
    "become the hub": ("SET ROLE finetune_hub", DENIED),
    "make a role": ("CREATE ROLE mine LOGIN", DENIED),
}  # fmt: skip


def test_a_hostile_worker_is_refused(scene: Scene) -> None:
    """One scene for all: each statement leaves it as it was."""
    with session(scene.invitation) as hostile:
        for what, (statement, expected) in HOSTILE.items():
            found: str | int
            try:
                found = hostile.execute(scene.fill(statement)).rowcount
            except psycopg.Error as error:
                found = str(error)
            assert found == expected or (isinstance(expected, str) and expected in str(found)), f"{what}: {found}"


def test_the_same_statements_are_let_through_to_what_is_its_own(scene: Scene) -> None:
    """That they were refused is no accident of statements that could never work."""
    mine = scene.mine.job
    own = {"other": scene.mine.pk, "other_job": mine.pk, "other_worker": scene.mine.worker_id}
    own |= {"other_team": mine.team_id, "other_base": mine.base_model_id, "other_prefix": scene.mine.artifact_prefix}
    own |= {"mine": scene.mine.pk, "job": mine.pk, "prefix": scene.mine.artifact_prefix}
    Checkpoint.objects.create(job=mine, attempt=scene.mine, step=7, artifact_prefix="x", manifest=[])
    tried = 0
    with session(scene.invitation) as worker:
        for what, (statement, expected) in HOSTILE.items():
            if "{other" in statement and "{version}" not in statement and expected in (0, NOT_YOURS):
                with worker.transaction(force_rollback=True):
                    assert worker.execute(statement.format(**own)).rowcount >= 1, what
                tried += 1
    assert tried >= 18


def expire(attempt: Attempt) -> None:
    Attempt.objects.filter(pk=attempt.pk).update(lease_expires_at=Now() + timedelta(seconds=0.3))
    time.sleep(0.4)


EXTEND = "UPDATE jobs_attempt SET lease_expires_at = clock_timestamp() + interval '1 minute' WHERE id = {mine}"
CHECKPOINT = (
    "INSERT INTO jobs_checkpoint (job_id, attempt_id, step, artifact_prefix, manifest) "
    "VALUES ('{job}', {mine}, 1, '{prefix}/checkpoints/1', '[]')"
)


def test_an_ended_lease_is_not_extended(scene: Scene) -> None:
    with session(scene.invitation) as hostile:
        assert hostile.execute(scene.fill(EXTEND)).rowcount == 1
        expire(scene.mine)
        assert hostile.execute(scene.fill(EXTEND)).rowcount == 0
        with pytest.raises(InsufficientPrivilege, match=NOT_YOURS):
            hostile.execute(scene.fill(CHECKPOINT))


def test_a_transaction_begun_in_time_does_not_stretch_the_lease(scene: Scene) -> None:
    with session(scene.invitation) as hostile, hostile.transaction():
        hostile.execute("SELECT now()")
        expire(scene.mine)
        assert hostile.execute(scene.fill(EXTEND)).rowcount == 0


def test_an_old_snapshot_does_not_hide_the_end_of_the_attempt(scene: Scene) -> None:
    hostile = session(scene.invitation)
    hostile.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with hostile, hostile.transaction():
        hostile.execute("SELECT FROM jobs_attempt")
        Attempt.objects.filter(pk=scene.mine.pk).update(state=AttemptState.LOST, finished_at=Now())
        with pytest.raises(InsufficientPrivilege, match=NOT_YOURS):
            hostile.execute(scene.fill(CHECKPOINT))


def test_a_slow_statement_does_not_outlive_the_attempt(scene: Scene) -> None:
    waiting = "WITH slow AS MATERIALIZED (SELECT pg_advisory_xact_lock(7)) "
    slow = waiting + scene.fill(CHECKPOINT).replace("VALUES (", "SELECT ").rstrip(")") + " FROM slow"
    waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with session(scene.invitation) as hostile, ThreadPoolExecutor(1) as thread, connection.cursor() as ours:
        ours.execute("SELECT pg_advisory_lock(7)")
        statement = thread.submit(hostile.execute, slow)
        wait_until(lambda: ours.execute(waits).fetchone() == (1,), seconds=60, what="the statement's waiting")
        Attempt.objects.filter(pk=scene.mine.pk).update(state=AttemptState.LOST, finished_at=Now())
        ours.execute("SELECT pg_advisory_unlock(7)")
        with pytest.raises(InsufficientPrivilege, match=NOT_YOURS):
            statement.result()


def test_a_worker_that_sits_on_locks_is_cut_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_hub.fleet.worker_role.TRANSACTION_AT_MOST_SECONDS", 0.1)
    for lock in (f"SELECT FROM jobs_job WHERE id = '{scene.mine.job_id}' FOR UPDATE", "SELECT pg_advisory_lock(1)"):
        hostile = session(scene.invitation)
        hostile.autocommit = "advisory" in lock
        hostile.execute(lock)
        time.sleep(0.2)
        assert end_long_transactions() == 1
        with pytest.raises(AdminShutdown):
            hostile.execute("SELECT 1")
        hostile.close()


# ---- the role itself


def test_a_new_invitation_replaces_the_password(invitation: Invitation) -> None:
    again = invite_worker("gpu-7")
    assert again.role_name == invitation.role_name
    session(again).close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        session(invitation)


def test_a_revoked_worker_is_cut_off_at_once(scene: Scene) -> None:
    hostile = session(scene.invitation)
    assert revoke_role("gpu-7")
    assert not revoke_role("gpu-7")
    with pytest.raises(AdminShutdown):
        hostile.execute("SELECT 1")
    hostile.close()
    with pytest.raises(psycopg.OperationalError):
        session(scene.invitation)
    assert not WorkerRole.objects.exists()


def test_a_hub_that_may_not_create_roles_says_what_would_let_it() -> None:
    with connection.cursor() as cursor:
        cursor.execute("CREATE ROLE modest LOGIN PASSWORD 'modest'")
        cursor.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO modest")
    try:
        with as_role("modest", "modest"), pytest.raises(Refusal, match='ALTER ROLE "modest" CREATEROLE'):
            invite_worker("gpu-8")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP OWNED BY modest; DROP ROLE modest")


def test_the_role_of_another_worker_is_noticed_before_the_start(
    invitation: Invitation, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    with as_worker(invitation):
        settings.WORKER_NAME = "gpu-7"
        check_database()
        settings.WORKER_NAME = "gpu-9"
        with pytest.raises(NotReady, match="is for the worker gpu-7"):
            check_database()


def test_whoever_has_grants_but_is_no_worker_sees_no_row(scene: Scene) -> None:
    WorkerRole.objects.all().delete()
    with session(scene.invitation) as nobody:
        assert nobody.execute("SELECT FROM jobs_job").rowcount == 0
        assert nobody.execute("SELECT FROM jobs_attempt").rowcount == 0
    with as_worker(scene.invitation), pytest.raises(ProgrammingError, match=NOT_YOURS):
        join()
    WorkerRole.objects.create(worker_name="gpu-7", role_name=scene.invitation.role_name)


def test_without_the_policies_there_is_no_grant(invitation: Invitation) -> None:
    call_command("migrate", "jobs", "0007", verbosity=0)
    try:
        with session(invitation) as worker, pytest.raises(InsufficientPrivilege, match=DENIED):
            worker.execute("SELECT FROM jobs_job")
    finally:
        call_command("migrate", verbosity=0)
    with as_worker(invitation):
        join()
