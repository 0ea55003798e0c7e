"""Live fan-out over Redis, which may be lost: a page polls (P2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache, partial

import redis
from django.conf import settings
from django.db import transaction

log = logging.getLogger(__name__)


def channel(job_id: str) -> str:
    """The Redis channel on which a job's news are announced; `*` as the id is the pattern of them all."""
    return f"job.{job_id}"


def job_of(name: bytes) -> str:
    """The id of the job whose channel this is."""
    return name.decode().removeprefix(channel(""))


def announce(job_id: str) -> None:
    """After the commit, tell whoever watches the job that there is something new to read in Postgres."""
    announce_all([job_id])


def announce_all(job_ids: Sequence[str]) -> None:
    """The same for several jobs, in one message to Redis."""
    transaction.on_commit(partial(_publish, job_ids))


def ping_redis() -> None:
    """
    Raises:
        RedisError, OSError: it does not answer.
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
