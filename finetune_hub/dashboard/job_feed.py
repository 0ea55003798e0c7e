"""What the watchers of a job see, looked up once for all of them in this process.

    JobFeeds   one subscription to Redis, and a feed for each job that somebody watches
    JobFeed    the newest `Snapshot` of a job: taken as something is announced, and every 15 seconds

Redis says when to look, and Postgres what there is to see. While Redis is lost, feeds look every two seconds (P2).
A look takes a thread and a database connection for a moment; between two of them a feed holds neither.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import redis.asyncio
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import Error, close_old_connections
from django.template.loader import render_to_string
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from finetune_hub.dashboard.curve import point_json
from finetune_hub.dashboard.job_parts import attempts_of, history_of, log_of, summary_of
from finetune_hub.event_streams import LOOKS_AT_ONCE
from finetune_hub.jobs.fan_out import channel, job_of
from finetune_hub.jobs.models import Job, MetricPoint

log = logging.getLogger(__name__)

Asked = ParamSpec("Asked")
Found = TypeVar("Found")

LOOK_SECONDS = 15.0  # Also what keeps a connection alive through proxies.
POLL_SECONDS = 2.0  # While Redis or Postgres is lost.
CALM_SECONDS = 0.25  # Announcements that come together are answered together.
FRESH_SECONDS = 1.0  # A watcher who comes sees nothing older.
MAX_POINTS_AT_ONCE = 1000


class Position(NamedTuple):
    """A point of the curve."""

    attempt_number: int = 0
    step: int = 0


BEGINNING = Position()


class Points(NamedTuple):
    """Points of the curve as JSON, and which is the last of them."""

    json: str
    last: Position


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment, as all its watchers see it."""

    parts: Mapping[str, str] = field(default_factory=dict)
    """The parts of its page that change, by name: its state in a word, the others as HTML."""
    history: str = ""
    event_count: int = 0
    newest_point: Position = BEGINNING
    is_over: bool = False
    is_hidden_from: frozenset[int] = frozenset()
    """Those of its watchers, by the user's primary key, who may no longer see it."""
    taken_at: float = field(default_factory=time.monotonic)


class JobFeed:
    """One job, watched for all who watch it in this process."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._snapshot: Snapshot | None = None
        self._bell = asyncio.Event()  # Something was announced.
        self._news = asyncio.Event()  # A snapshot was taken; each has an event of its own.
        self._points: dict[Position, asyncio.Task[Points | None]] = {}
        self.watchers: Counter[int] = Counter()
        self._task = asyncio.create_task(self._run())

    def ring(self) -> None:
        """Look soon."""
        self._bell.set()

    def close(self) -> None:
        self._task.cancel()

    async def first(self) -> Snapshot:
        """A snapshot that is fresh."""
        if self._snapshot is not None and time.monotonic() - self._snapshot.taken_at < FRESH_SECONDS:
            return self._snapshot
        self.ring()
        return await self.after(self._snapshot)

    async def after(self, seen: Snapshot | None) -> Snapshot:
        """The first snapshot after one that was seen; the same again, every few seconds, while there is no database.

        Raises:
            Exception: the look itself failed, other than for want of a database.
        """
        if self._snapshot is seen and not self._task.done():
            await self._news.wait()
        if self._task.done():
            self._task.result()
        assert self._snapshot is not None
        return self._snapshot

    async def points_after(self, position: Position) -> Points | None:
        """Those that follow a position, `MAX_POINTS_AT_ONCE` at most; looked up once between two snapshots."""
        if position not in self._points:
            self._points[position] = asyncio.create_task(_in_thread(_points_after)(self._job_id, position))
        try:
            return await asyncio.shield(self._points[position])
        except Error as error:
            log.warning("points of job %s could not be looked up: %s", self._job_id, error)
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
        """Take a snapshot; while there is no database, the one before serves again."""
        while True:
            self._bell.clear()
            try:
                self._snapshot = await _in_thread(_look)(self._job_id, list(self.watchers))
            except Error as error:
                log.warning("job %s could not be looked at: %s", self._job_id, error)
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
    """The feeds of a process, and its one subscription to Redis, while anybody watches."""

    def __init__(self) -> None:
        self._feeds: dict[str, JobFeed] = {}
        self._listening: asyncio.Task[None] | None = None

    @contextmanager
    def watched_by(self, user_id: int, job_id: str) -> Iterator[JobFeed]:
        """The feed of a job, for as long as the user watches it."""
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
        """Ring the feeds of the jobs that are announced, and all of them when the subscription begins or is lost."""
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
    """Those of the running event loop."""
    return _feeds_of_loop.setdefault(asyncio.get_running_loop(), JobFeeds())


_feeds_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, JobFeeds] = WeakKeyDictionary()


_lookers = ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="look")


def _in_thread(look: Callable[Asked, Found]) -> Callable[Asked, Coroutine[Any, Any, Found]]:
    """The same function, in one of few threads, that leaves no database connection open there."""

    def look_and_close(*args: Asked.args, **kwargs: Asked.kwargs) -> Found:
        try:
            return look(*args, **kwargs)
        finally:
            close_old_connections()

    return sync_to_async(look_and_close, thread_sensitive=False, executor=_lookers)


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
