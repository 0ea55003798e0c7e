"""One attempt from its claim to its end, from top to bottom: prepare, start, follow, finish.

It runs in a thread of the worker's process. The same code also takes over an attempt that was started before the worker
restarted, because all state is in the folder and in Postgres.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from finetune_hub.artifacts.manifest import manifest_of
from finetune_hub.artifacts.store import put_folder, shared_store
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Attempt, Job
from finetune_hub.jobs.worker_port import LeaseLost
from finetune_hub.logs import about
from finetune_hub.machine.paths_in_text import without_paths
from finetune_hub.spec.events import (
    EXIT_STOPPED,
    EXIT_SUCCEEDED,
    EXIT_UNSAID,
    Checkpointed,
)
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.problem import Explained, Failed
from finetune_hub.spec.refusal import Refusal
from workers.attempt_folder import AttemptFolder, ExitReport
from workers.free_disk import require_room
from workers.kinds.registry import work_of
from workers.kinds.work import Finish, Start
from workers.supervisor import boot_clock

log = logging.getLogger(__name__)

DATABASE_IS_AWAY = (OperationalError, InterfaceError)
FOLLOW_SECONDS = 0.25
LOG_TAIL_SECONDS = 2.0
DATABASE_RETRY_SECONDS = 1.0
LOOK_AT_THE_DISK = "Check the worker's disk: it may be full."
MAP_AND_FETCH_AGAIN = (
    "Then import it again with that mapping: on the job's page, with `finetune-hub datasets import SOURCE --map "
    "COLUMN=PART`, or with `mapping` in the API."
)
ENGINE_LOG = "See the attempt's log on the job's page."


def ask_for_parts(refusal: Refusal) -> tuple[Failed, dict[str, Any]]:
    """Return the failure of a file with unknown columns, and a result with the columns, to ask for a mapping."""
    failed = replace(refusal.failed, remedy=f"{refusal.remedy} {MAP_AND_FETCH_AGAIN}")
    return failed, {"unknown_columns": [detail["column"] for detail in refusal.details]}


class AttemptThread(threading.Thread):
    """Runs one attempt. `keep_lease` is called from the agent's thread, so that long uploads do not lose the lease."""

    def __init__(self, folder: AttemptFolder) -> None:
        self.folder, self.lease = folder, folder.lease
        self.lost = threading.Event()
        self.shown_log = ""
        super().__init__(name=f"attempt-{self.lease.attempt_id}", daemon=True)

    def keep_lease(self) -> None:
        """Renew the lease and pass the new deadline, and whether to stop, to the supervisor."""
        before = boot_clock()
        try:
            must_stop = worker_port.renew_lease(self.lease)
        except LeaseLost:
            self.lost.set()
        except DATABASE_IS_AWAY as error:
            log.warning("attempt %s: the lease was not renewed: %s", self.lease.attempt_id, error)
            connection.close()
        else:
            self._grant(before, stop=must_stop)

    def _grant(self, before: float, *, stop: bool) -> None:
        """Pass the deadline to the supervisor; if the disk is full, it ends the trainer at the old deadline."""
        try:
            self.folder.grant(before, stop=stop)
        except OSError as error:
            log.warning("attempt %s: the lease was not passed on: %s", self.lease.attempt_id, error)

    def run(self) -> None:
        with about(job_id=self.lease.job_id, attempt_id=self.lease.attempt_id):
            try:
                self._run()
            except (LeaseLost, Attempt.DoesNotExist):  # A worker's own role cannot see a job that it lost.
                log.warning("the lease is lost; the trainer is killed")
                self._kill()
            finally:
                connection.close()
            self.folder.remove()

    def _run(self) -> None:
        self._stop_when_lost()
        try:
            if not self.folder.was_started:
                self._start()
            report = self._follow()
            self._finish(report)
        except Explained as error:
            if isinstance(error, Refusal) and error.code == "unknown_format":
                self._fail(*ask_for_parts(error))
            else:
                self._fail(error.failed)
        except OSError as error:
            message = f"The worker could not read or write a file of the attempt ({error})."
            self._fail(Failed("infrastructure", message, LOOK_AT_THE_DISK))
        self._retry_database(self._clean_up)

    def _start(self) -> None:
        # Without a lease, a worker's own role cannot see all of the job. All its connections may be taken.
        self._retry_database(lambda: worker_port.renew_lease(self.lease))
        attempt = Attempt.objects.select_related("job__base_model", "job__adapter_version").get(
            pk=self.lease.attempt_id
        )
        work, start = work_of(attempt.job.kind), Start.of(attempt, self.folder)
        require_room(work.bytes_needed(attempt.job), self.folder.path)
        work.prepare(start)
        supervisor = self.folder.start_supervisor(start.argv, start.environment)
        # If it ends before it writes its pid, `_follow` finds no report and handles that.
        while not self.folder.was_started and supervisor.poll() is None:
            self._stop_when_lost()
            time.sleep(0.01)

    def _follow(self) -> ExitReport:
        """Record events, checkpoints and the log until the commands have ended."""
        log_due = 0.0
        while True:
            self._stop_when_lost()
            alive = self.folder.supervisor_is_alive()
            report = self.folder.exit_report()
            try:
                grew = self._record_events()
                if time.monotonic() >= log_due or report or not alive:
                    self._record_log()
                    log_due = time.monotonic() + LOG_TAIL_SECONDS
            except DATABASE_IS_AWAY as error:
                log.warning("attempt %s: the database does not respond: %s", self.lease.attempt_id, error)
                connection.close()
                time.sleep(DATABASE_RETRY_SECONDS)
                continue
            if grew:
                continue
            if report:
                return report
            if not alive:
                # Checked in this order, so that the report of a supervisor that has just ended is never missed.
                return self.folder.exit_report() or ExitReport(-9, "supervisor_killed", 0)
            time.sleep(FOLLOW_SECONDS)

    def _record_events(self) -> bool:
        """Record new events from the event file. A checkpoint's files are stored before its event is recorded."""
        start = worker_port.events_offset(self.lease)
        events, end = self.folder.read_events(start)
        if end == start:
            return False
        for event in events:
            if isinstance(event, Checkpointed):
                self._store_checkpoint(event)
        worker_port.record_events(self.lease, events, start=start, end=end)
        return True

    def _record_log(self) -> None:
        tail = without_paths(self.folder.read_log_tail())  # People read it in a browser.
        if tail != self.shown_log:
            worker_port.record_log_tail(self.lease, tail)
            self.shown_log = tail

    def _store_checkpoint(self, event: Checkpointed) -> None:
        prefix = f"{self._artifact_prefix()}/checkpoints/step-{event.step}"
        store = shared_store(settings.ARTIFACT_URL)
        try:
            put_folder(store, prefix, self.folder.output / event.path, event.files)
        except FileNotFoundError:
            log.warning("attempt %s: checkpoint %s is already gone", self.lease.attempt_id, event.step)
            return
        superseded = worker_port.record_checkpoint(
            self.lease, step=event.step, artifact_prefix=prefix, files=event.files
        )
        for key in superseded:
            store.delete(key)

    def _finish(self, report: ExitReport) -> None:
        if report.reason == "lease_ended":
            raise LeaseLost
        was_asked = report.reason in {"stopped", "grace_ended"}
        if was_asked or report.status == EXIT_STOPPED:
            self._retry_database(lambda: worker_port.stop(self.lease, was_asked=was_asked, failed=self.folder.failed()))
        elif report.status == EXIT_SUCCEEDED:
            self._retry_database(self._publish)
        else:
            self._fail(self._explain(report))

    def _explain(self, report: ExitReport) -> Failed:
        """Return why the commands failed, as reported by the engine if possible."""
        if failed := self.folder.failed():
            return failed
        if report.status < 0 and report.oom_kills:
            return Failed(
                "out_of_memory",
                "The kernel killed the trainer because the machine ran out of memory.",
                "Lower `micro_batch_size` or `max_seq_len`, or run it on a larger machine.",
            )
        if report.status == EXIT_UNSAID:
            return Failed("infrastructure", "The engine could not write to the worker's disk.", LOOK_AT_THE_DISK)
        if report.status < 0:
            killed = f"The trainer was killed by signal {-report.status}."
            return Failed("infrastructure", killed, "Find out what kills processes on the worker's machine.")
        return Failed("internal", f"The engine ended with status {report.status}.", ENGINE_LOG)

    def _fail(self, failed: Failed, result: dict[str, Any] | None = None) -> None:
        self._retry_database(lambda: worker_port.fail(self.lease, failed, result))

    def _publish(self) -> None:
        """Store the attempt's files, then publish them in one fenced transaction."""
        attempt = Attempt.objects.select_related("job__base_model").get(pk=self.lease.attempt_id)
        result = self.folder.result()
        work_of(attempt.job.kind).publish(Finish(self.lease, attempt.job, self.folder, result, self._store_output))

    def _store_output(self, name: str) -> tuple[str, list[FileEntry]]:
        prefix = f"{self._artifact_prefix()}/{name}"
        files = manifest_of(self.folder.output / name)
        put_folder(shared_store(settings.ARTIFACT_URL), prefix, self.folder.output / name, files)
        return prefix, files

    def _artifact_prefix(self) -> str:
        return Attempt.objects.get(pk=self.lease.attempt_id).artifact_prefix

    def _clean_up(self) -> None:
        job = Job.objects.get(attempts=self.lease.attempt_id)
        work_of(job.kind).clean_up(job)

    def _retry_database(self, write: Callable[[], object]) -> None:
        """Retry the write until it succeeds or the lease is lost, so that a database restart does no harm."""
        while True:
            self._stop_when_lost()
            try:
                write()
                return
            except DATABASE_IS_AWAY as error:
                log.warning("attempt %s: the database does not respond: %s", self.lease.attempt_id, error)
                connection.close()
                time.sleep(DATABASE_RETRY_SECONDS)

    def _stop_when_lost(self) -> None:
        if self.lost.is_set():
            raise LeaseLost

    def _kill(self) -> None:
        """Kill the commands and wait until they are gone."""
        try:
            self.folder.revoke()
        except OSError:  # On a full disk, the supervisor cannot be notified.
            self.folder.kill_supervisor()
        give_up = time.monotonic() + 10
        while self.folder.supervisor_is_alive():
            if time.monotonic() > give_up:
                self.folder.kill_supervisor()
            time.sleep(0.05)
