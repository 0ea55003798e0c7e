"""Celery's beat as a thread of a worker. A separate process, as with Celery's `--beat`, would take 0.1 GB."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from celery.bootsteps import StartStopStep

if TYPE_CHECKING:
    from celery.apps.worker import Worker

log = logging.getLogger(__name__)

LOOK_SECONDS = 1  # How soon it notices a stop request.
STOP_SECONDS = 3.0


class BeatThread(StartStopStep):
    """The worker's option `--beat-thread`. If the beat fails, the worker exits, so that its supervisor restarts it."""

    def __init__(
        self, worker: Worker, *, beat_thread: bool = False, schedule_filename: str | None = None, **options: Any
    ) -> None:
        super().__init__(worker, **options)
        self.enabled = beat_thread
        self.schedule_filename = schedule_filename

    def create(self, worker: Worker) -> None:
        from celery.beat import Service  # Not needed in web processes, which only send.

        self.beat = Service(worker.app, max_interval=LOOK_SECONDS, schedule_filename=self.schedule_filename)
        self.thread = threading.Thread(target=self._run, name="beat", daemon=True)

    def start(self, worker: Worker) -> None:
        self.thread.start()

    def stop(self, worker: Worker) -> None:
        self.beat.stop()
        self.thread.join(STOP_SECONDS)  # Without Redis it does not react, and only loses its last run times.

    def _run(self) -> None:
        try:
            self.beat.app.set_current()
            self.beat.start()
        except BaseException:
            log.exception("beat failed, this worker exits")
            os._exit(1)
