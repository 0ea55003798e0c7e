"""The worker's agent: joins the fleet, claims assigned attempts, keeps leases, and resumes attempts that still run.

One thread ticks; each attempt has its own thread (`AttemptThread`). A poke only shortens the wait for a tick.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from importlib.metadata import version
from pathlib import Path

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection

from finetune_hub.fleet.models import Worker
from finetune_hub.jobs import worker_port
from finetune_hub.spec.problem import Failed
from workers.attempt_folder import AttemptFolder
from workers.attempt_run import LOOK_AT_THE_DISK, AttemptThread
from workers.device_watch import DeviceWatch
from workers.free_disk import free_bytes_at
from workers.inputs import cached_revisions
from workers.inventory import find_devices
from workers.supervisor import boot_clock

log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
READING_SECONDS = 30.0
TICK_SECONDS = 1.0


class Agent(threading.Thread):
    """The worker's main thread. `wake` may be called from any thread."""

    def __init__(self, name: str) -> None:
        self.worker_name = name
        self.root: Path = settings.HOME / "work" / name
        self.attempts: dict[int, AttemptThread] = {}
        self.watch = DeviceWatch()
        self._woken, self._stopped = threading.Event(), threading.Event()
        super().__init__(name="agent", daemon=True)

    def wake(self) -> None:
        """Tick now."""
        self._woken.set()

    def stop(self) -> None:
        """End the agent's thread. Trainers keep running until their lease ends or a restarted worker finds them."""
        self._stopped.set()
        self._woken.set()

    def run(self) -> None:
        worker: Worker | None = None
        beat_due = lease_due = reading_due = 0.0
        while not self._stopped.is_set():
            woken = self._woken.is_set()
            self._woken.clear()
            try:
                if worker is None:
                    worker = self._join()
                now = time.monotonic()
                if now >= beat_due:
                    worker_port.beat(worker, free_bytes=free_bytes_at(self.root), cached_revisions=cached_revisions())
                    beat_due = now + BEAT_SECONDS
                if woken or now >= lease_due:
                    self._keep_leases()
                    lease_due = now + settings.LEASE.total_seconds() / 3
                self._claim(worker)
                if now >= reading_due:
                    reading_due = now + READING_SECONDS
                    worker_port.record_readings(worker, self.watch.read(self._supervisors()))
            except (OperationalError, InterfaceError) as error:
                log.warning("the database does not respond: %s", error)
                connection.close()
            except Exception:  # A problem with one attempt must not affect the others.
                log.exception("the agent continues after an unexpected error")
            self._woken.wait(TICK_SECONDS)

    def _join(self) -> Worker:
        """Register, and resume the attempts that were running when this worker last stopped."""
        worker = worker_port.register_worker(
            self.worker_name,
            hostname=socket.gethostname(),
            version=version("finetune_hub"),
            devices=find_devices(),
            labels=settings.WORKER_LABELS,
        )
        for folder in AttemptFolder.found_in(self.root):
            if folder.lease.attempt_id not in self.attempts:
                log.info("attempt %s: found again", folder.lease.attempt_id)
                self._begin(folder)
        log.info("worker %s has joined", worker.name)
        return worker

    def _claim(self, worker: Worker) -> None:
        for attempt_id in worker_port.assigned_attempts(worker):
            before = boot_clock()
            lease = worker_port.claim_attempt(attempt_id, worker=worker)
            if lease is None:
                continue
            try:
                folder = AttemptFolder.create(self.root, lease, before=before)
            except OSError as error:
                message = f"The worker {worker.name} could not create the attempt's folder ({error})."
                worker_port.fail(lease, Failed("infrastructure", message, LOOK_AT_THE_DISK))
            else:
                self._begin(folder)

    def _begin(self, folder: AttemptFolder) -> None:
        attempt = self.attempts[folder.lease.attempt_id] = AttemptThread(folder)
        attempt.start()

    def _supervisors(self) -> set[int]:
        """Return the parent processes of our trainers."""
        return {pid for attempt in self.attempts.values() if (pid := attempt.folder.supervisor_pid)}

    def _keep_leases(self) -> None:
        self.attempts = {key: attempt for key, attempt in self.attempts.items() if attempt.is_alive()}
        for attempt in self.attempts.values():
            attempt.keep_lease()
