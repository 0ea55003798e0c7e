"""Live fan-out over Redis. A message may be lost, because pages also poll (P2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache, partial

import redis
from django.conf import settings
from django.db import transaction

log = logging.getLogger(__name__)


def channel(job_id: str) -> str:
    """Return the Redis channel for a job's changes; `*` as the id makes the pattern of all channels."""
    return f"job.{job_id}"


def job_of(name: bytes) -> str:
    """Return the id of the job that a channel belongs to."""
    return name.decode().removeprefix(channel(""))


def announce(job_id: str) -> None:
    """After the commit, tell the job's watchers that there is something new to read in Postgres."""
    announce_all([job_id])


def announce_all(job_ids: Sequence[str]) -> None:
    """Announce several jobs in one round trip to Redis."""
    transaction.on_commit(partial(_publish, job_ids))


def ping_redis() -> None:
    """Check that Redis responds.

    Raises:
        RedisError, OSError: it does not respond.
    """
    _redis().ping()


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
