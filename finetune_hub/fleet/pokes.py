"""Pokes over Celery. A poke may be lost, which only costs time, because the reconciler checks again (P2).

Every change that affects scheduling pokes the scheduler, so that no job waits for the next tick.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import redis
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError

from finetune_hub.celery import app
from finetune_hub.fleet.models import Worker

log = logging.getLogger(__name__)


def poke_control(task: str, *args: Any) -> None:
    """Ask control, after the commit, to run one of its tasks."""
    transaction.on_commit(partial(_send, f"workers.control.{task}", args, "control"))


def poke_worker(worker: Worker) -> None:
    """Wake the worker, after the commit, so that it looks for assigned attempts."""
    transaction.on_commit(partial(_send, "workers.gpu.wake", (), worker.queue))


def send_canary(worker: Worker) -> None:
    """Send a task that only proves that the worker consumes its queue."""
    _send("workers.gpu.canary", (), worker.queue, expires=settings.CANARY_MISSING_AFTER.total_seconds())


def _send(task: str, args: tuple[Any, ...], queue: str, **options: Any) -> None:
    try:
        app.send_task(task, args=args, queue=queue, **options)
    except (OperationalError, redis.RedisError, OSError) as error:
        log.warning("poke lost: %s to %s: %s", task, queue, error)
