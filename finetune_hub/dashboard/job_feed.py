"""The state of watched jobs, queried once for all watchers in this process.

    JobFeeds   one Redis subscription, and a feed for each job that has watchers
    JobFeed    the newest `Snapshot` of a job, taken after each announcement and every 15 seconds

Redis announces changes, and Postgres has the data. Without Redis, feeds query every two seconds (P2). A query uses a
thread and a database connection; between queries a feed holds neither.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from weakref import WeakKeyDictionary

import redis.asyncio
from django.conf import settings
from django.db import Error
from django.template.loader import render_to_string
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from finetune_hub.dashboard.curve import point_json
from finetune_hub.dashboard.job_parts import attempts_of, history_of, log_of, summary_of
from finetune_hub.database_threads import in_threads
from finetune_hub.event_streams import LOOKS_AT_ONCE
from finetune_hub.jobs.fan_out import channel, job_of
from finetune_hub.jobs.models import Job, MetricPoint

log = logging.getLogger(__name__)

LOOK_SECONDS = 15.0  # Also the keep-alive interval, for proxies.
POLL_SECONDS = 2.0  # While Redis or Postgres is unavailable.
CALM_SECONDS = 0.25  # Announcements within this time lead to one query.
FRESH_SECONDS = 1.0  # Maximum age of a new watcher's first snapshot.
MAX_POINTS_AT_ONCE = 1000


class Position(NamedTuple):
    """A point on the curve."""

    attempt_number: int = 0
    step: int = 0


BEGINNING = Position()


class Points(NamedTuple):
    """Points on the curve as JSON, and the position of the last one."""

    json: str
    last: Position


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment, the same for all watchers."""

    parts: Mapping[str, str] = field(default_factory=dict)
    """The changing parts of its page by name: `state` is a word, the others are HTML."""
    history: str = ""
    event_count: int = 0
    newest_point: Position = BEGINNING
    is_over: bool = False
    is_hidden_from: frozenset[int] = frozenset()
    """Primary keys of the watching users who may no longer see the job."""
    taken_at: float = field(default_factory=time.monotonic)


class JobFeed:
    """One job, queried for all its watchers in this process."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._snapshot: Snapshot | None = None
        self._bell = asyncio.Event()  # Set by an announcement.
        self._news = asyncio.Event()  # Set when a snapshot is taken; each snapshot has its own event.
        self._points: dict[Position, asyncio.Task[Points | None]] = {}
        self.watchers: Counter[int] = Counter()
        self._task = asyncio.create_task(self._run())

    def ring(self) -> None:
        """Query soon."""
        self._bell.set()

    def close(self) -> None:
        self._task.cancel()

    async def first(self) -> Snapshot:
        """Return a fresh snapshot."""
        if self._snapshot is not None and time.monotonic() - self._snapshot.taken_at < FRESH_SECONDS:
            return self._snapshot
        self.ring()
        return await self.after(self._snapshot)

    async def after(self, seen: Snapshot | None) -> Snapshot:
        """Return the first snapshot after `seen`; without a database, every few seconds the same one again.

        Raises:
            Exception: the query failed, and not because of the database.
        """
        if self._snapshot is seen and not self._task.done():
            await self._news.wait()
        if self._task.done():
            self._task.result()
        assert self._snapshot is not None
        return self._snapshot

    async def points_after(self, position: Position) -> Points | None:
        """Return the next points, `MAX_POINTS_AT_ONCE` at most; queried once per snapshot."""
        if position not in self._points:
            self._points[position] = asyncio.create_task(in_threads(_lookers, _points_after)(self._job_id, position))
        try:
            return await asyncio.shield(self._points[position])
        except Error as error:
            log.warning("cannot query the points of job %s: %s", self._job_id, error)
            return None

    async def _run(self) -> None:
        try:
            while True:
                await self._look()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._bell.wait(), LOOK_SECONDS)
                    await asyncio.sleep(CALM_SECONDS)
        finally:
            self._tell()

    async def _look(self) -> None:
        """Take a snapshot. While the database is unavailable, publish the last one again."""
        while True:
            self._bell.clear()
            try:
                self._snapshot = await in_threads(_lookers, _look)(self._job_id, list(self.watchers))
            except Error as error:
                log.warning("cannot query job %s: %s", self._job_id, error)
                if self._snapshot is not None:
                    self._tell()
                await asyncio.sleep(POLL_SECONDS)
            else:
                self._points.clear()
                return self._tell()

    def _tell(self) -> None:
        told, self._news = self._news, asyncio.Event()
        told.set()


class JobFeeds:
    """The feeds of a process and its Redis subscription, which exists while there are watchers."""

    def __init__(self) -> None:
        self._feeds: dict[str, JobFeed] = {}
        self._listening: asyncio.Task[None] | None = None

    @contextmanager
    def watched_by(self, user_id: int, job_id: str) -> Iterator[JobFeed]:
        """Yield the feed of a job for as long as the user watches it."""
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = JobFeed(job_id)
        if self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        feed.watchers[user_id] += 1
        try:
            yield feed
        finally:
            feed.watchers -= Counter([user_id])
            if not feed.watchers:
                feed.close()
                del self._feeds[job_id]
            if not self._feeds and self._listening is not None:
                self._listening.cancel()
                self._listening = None

    async def _listen(self) -> None:
        """Ring the feeds of announced jobs, and all feeds when the subscription starts or fails."""
        client = redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
        async with client:
            while True:
                with suppress(RedisError, OSError):
                    async with client.pubsub(ignore_subscribe_messages=True) as subscription:
                        await subscription.psubscribe(channel("*"))
                        self._ring(self._feeds)
                        async for message in subscription.listen():
                            self._ring([job_of(message["channel"])])
                self._ring(self._feeds)
                await asyncio.sleep(POLL_SECONDS)

    def _ring(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            if job_id in self._feeds:
                self._feeds[job_id].ring()


def job_feeds() -> JobFeeds:
    """Return the feeds of the running event loop."""
    return _feeds_of_loop.setdefault(asyncio.get_running_loop(), JobFeeds())


_feeds_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, JobFeeds] = WeakKeyDictionary()


_lookers = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="look")


def _look(job_id: str, watchers: Sequence[int]) -> Snapshot:
    job = Job.objects.for_page().filter(pk=job_id).first()
    if job is None:
        return Snapshot(is_hidden_from=frozenset(watchers))
    members = job.team.memberships.filter(user_id__in=watchers, user__is_active=True)
    summary = summary_of(job)
    newest: MetricPoint | None = summary["newest"]
    contexts = {"summary": summary, "attempts": attempts_of(job), "log": log_of(job)}
    html = {name: render_to_string(f"jobs/_{name}.html", context) for name, context in contexts.items()}
    return Snapshot(
        {"state": job.shown_state, **html},
        history=render_to_string("jobs/_history.html", history_of(job)),
        event_count=job.event_count,
        newest_point=Position(newest.attempt_number, newest.step) if newest else BEGINNING,
        is_over=job.has_ended,
        is_hidden_from=frozenset(watchers) - set(members.values_list("user_id", flat=True)),
    )


def _points_after(job_id: str, position: Position) -> Points | None:
    following = MetricPoint.objects.of_job_after(job_id, **position._asdict())
    points = list(following[:MAX_POINTS_AT_ONCE])
    if not points:
        return None
    return Points(
        json.dumps([point_json(point) for point in points]), Position(points[-1].attempt_number, points[-1].step)
    )
