"""Pokes and live fan-out over Redis. Both may be lost: a page polls, and the reconciler pokes again (P2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import redis
from django.conf import settings
from django.db import transaction
from kombu.exceptions import OperationalError

from finetune_hub.celery import app
from finetune_hub.fleet.models import Worker

log = logging.getLogger(__name__)


def channel(job_id: str) -> str:
    """The Redis channel on which a job's news are announced."""
    return f"job.{job_id}"


def announce(job_id: str) -> None:
    """After the commit, tell whoever watches the job that there is something new to read in Postgres."""
    announce_all([job_id])


def announce_all(job_ids: Sequence[str]) -> None:
    """The same for several jobs, in one message to Redis."""
    transaction.on_commit(partial(_publish, job_ids))


def poke_control(task: str, *args: Any) -> None:
    """After the commit, ask control to run one of its tasks."""
    transaction.on_commit(partial(_send, f"workers.control.{task}", args, "control"))


def poke_worker(worker: Worker) -> None:
    """After the commit, wake the worker so that it looks for what it was assigned."""
    transaction.on_commit(partial(_send, "workers.gpu.wake", (), worker.queue))


def send_canary(worker: Worker) -> None:
    """Send a task whose only effect is that the worker really consumed it."""
    _send("workers.gpu.canary", (), worker.queue, expires=settings.CANARY_MISSING_AFTER.total_seconds())


def ping_redis() -> None:
    """
    Raises:
        RedisError, OSError: it does not answer.
    """
    _redis().ping()


def _send(task: str, args: tuple[Any, ...], queue: str, **options: Any) -> None:
    try:
        app.send_task(task, args=args, queue=queue, **options)
    except (OperationalError, redis.RedisError, OSError) as error:
        log.warning("poke lost: %s to %s: %s", task, queue, error)


def _publish(job_ids: Sequence[str]) -> None:
    pipeline = _redis().pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.publish(channel(job_id), "changed")
    try:
        pipeline.execute()
    except (redis.RedisError, OSError) as error:
        log.warning("announcements lost: %s: %s", ", ".join(job_ids[:3]), error)


@lru_cache(maxsize=1)
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2, socket_timeout=2)
