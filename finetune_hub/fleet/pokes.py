"""Pokes over Celery. Each may be lost: the reconciler looks again, and nothing but time is lost (P2).

Whatever changes what the scheduler would decide pokes it, so that no job waits for the next tick.
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
    """After the commit, ask control to run one of its tasks."""
    transaction.on_commit(partial(_send, f"workers.control.{task}", args, "control"))


def poke_worker(worker: Worker) -> None:
    """After the commit, wake the worker so that it looks for what it was assigned."""
    transaction.on_commit(partial(_send, "workers.gpu.wake", (), worker.queue))


def send_canary(worker: Worker) -> None:
    """Send a task whose only effect is that the worker really consumed it."""
    _send("workers.gpu.canary", (), worker.queue, expires=settings.CANARY_MISSING_AFTER.total_seconds())


def _send(task: str, args: tuple[Any, ...], queue: str, **options: Any) -> None:
    try:
        app.send_task(task, args=args, queue=queue, **options)
    except (OperationalError, redis.RedisError, OSError) as error:
        log.warning("poke lost: %s to %s: %s", task, queue, error)
