"""What is new about a job, as server-sent events.

    event: summary   HTML: state, why it waits, progress, newest numbers
    event: history   HTML: its newest events
    event: attempts  HTML: each attempt with its state, worker and devices
    event: log       HTML: the end of the newest attempt's output
    event: state     the job's state in a word, when it has changed: other buttons are due
    event: metrics   JSON: points of the curve, each once
    event: end       nothing more will come

Redis says when to look, and Postgres what there is to see. Without Redis the stream looks every two seconds (P2).
Between two looks it holds no database connection, so a thousand watchers cost memory only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import redis.asyncio
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections
from django.template.loader import render_to_string
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from finetune_hub.accounts.models import User
from finetune_hub.dashboard.curve import point_json
from finetune_hub.jobs.fan_out import channel
from finetune_hub.jobs.models import Job, MetricPoint

KEEP_ALIVE_SECONDS = 15.0
POLL_SECONDS = 2.0  # While Redis is lost.
CALM_SECONDS = 0.25  # Announcements that come together are answered together.
MAX_POINTS_AT_ONCE = 1000
EVENTS_SHOWN = 100
LOG_CHARACTERS_SHOWN = 16_000


class Cursor(NamedTuple):
    """How far a watcher has seen: the id of each event, which the browser sends back as `Last-Event-ID`."""

    event_number: int = 0
    attempt_number: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"{self.event_number}-{self.attempt_number}-{self.step}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor that the text spells; the beginning when it spells none."""
        parts = text.split("-")
        if len(parts) != 3 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
            return cls()
        return cls(*map(int, parts))


@dataclass
class JobWatch:
    """One watcher of one job, and what it has been told already."""

    user: User
    job_id: str
    cursor: Cursor
    is_over: bool = False
    _told: dict[str, str] = field(default_factory=dict)
    """The newest content of each event; `state` begins with what the page says already."""

    def look(self) -> list[str]:
        """The events that are new since the last look. Leaves no database connection open in this thread."""
        try:
            return self._look()
        finally:
            close_old_connections()

    def _look(self) -> list[str]:
        job = Job.objects.visible_to(self.user).for_page().filter(pk=self.job_id).first()
        if job is None:  # The user left the team.
            self.is_over = True
            return [event("end", "", self.cursor)]
        self.is_over = job.has_ended
        points = list(
            MetricPoint.objects.of_job_after(job.pk, attempt_number=self.cursor.attempt_number, step=self.cursor.step)[
                :MAX_POINTS_AT_ONCE
            ]
        )
        if points:
            self.cursor = self.cursor._replace(attempt_number=points[-1].attempt_number, step=points[-1].step)
        has_new_events = job.event_count > self.cursor.event_number
        self.cursor = self.cursor._replace(event_number=job.event_count)
        events = []
        if points:
            events.append(event("metrics", json.dumps([point_json(point) for point in points]), self.cursor))
        if has_new_events:
            events.append(event("history", render_to_string("jobs/_history.html", history_of(job)), self.cursor))
        if self._told.get("state") != job.shown_state:
            self._told["state"] = job.shown_state
            events.append(event("state", job.shown_state, self.cursor))
        for name, context in (("summary", summary_of(job)), ("attempts", attempts_of(job)), ("log", log_of(job))):
            html = render_to_string(f"jobs/_{name}.html", context)
            if self._told.get(name) != html:
                self._told[name] = html
                events.append(event(name, html, self.cursor))
        if self.is_over:
            events.append(event("end", "", self.cursor))
        return events


def summary_of(job: Job) -> dict[str, Any]:
    return {"job": job, "newest": MetricPoint.objects.newest_of(job)}


def attempts_of(job: Job) -> dict[str, Any]:
    return {"job": job, "attempts": job.attempts.for_page()}


def history_of(job: Job) -> dict[str, Any]:
    return {"job": job, "events": job.events.select_related("actor").order_by("-number")[:EVENTS_SHOWN]}


def log_of(job: Job) -> dict[str, Any]:
    """The end of the newest attempt's output, from the beginning of a line."""
    text = job.attempts.order_by("-number").values_list("log_tail", flat=True).first() or ""
    if len(text) > LOG_CHARACTERS_SHOWN:
        text = text[-LOG_CHARACTERS_SHOWN:].partition("\n")[2]
    return {"log": text}


def event(name: str, data: str, cursor: Cursor) -> str:
    """One server-sent event."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\nid: {cursor}\n{lines}\n"


async def stream_job(user: User, job_id: str, cursor: Cursor, *, shown_state: str = "") -> AsyncIterator[str]:
    """The job's events as they come, until it has ended or the client goes away."""
    watch = JobWatch(user, job_id, cursor, _told={"state": shown_state})
    announcements = Announcements(channel(job_id))
    try:
        await announcements.wait(0)  # Subscribes first: what is announced after the first look is not missed.
        while True:
            events = await sync_to_async(watch.look)()
            for text in events or [": keep-alive\n\n"]:
                yield text
            if watch.is_over:
                return
            await announcements.wait(KEEP_ALIVE_SECONDS)
    finally:
        await announcements.close()


class Announcements:
    """One channel of Redis, subscribed again after every loss."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._redis = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        )
        self._pubsub: PubSub | None = None

    async def wait(self, seconds: float) -> None:
        """Until something is announced, at most so long. Returns sooner while Redis is lost, and when it is back."""
        try:
            if self._pubsub is None:
                self._pubsub = self._redis.pubsub(ignore_subscribe_messages=True)
                await self._pubsub.subscribe(self.name)
            elif await self._pubsub.get_message(timeout=seconds):
                await asyncio.sleep(CALM_SECONDS)
                while await self._pubsub.get_message(timeout=0):
                    pass
        except (RedisError, OSError):
            await self._unsubscribe()
            await asyncio.sleep(min(seconds, POLL_SECONDS))

    async def close(self) -> None:
        await self._unsubscribe()
        await self._redis.aclose()

    async def _unsubscribe(self) -> None:
        if self._pubsub is not None:
            pubsub, self._pubsub = self._pubsub, None
            await pubsub.aclose()  # type: ignore[no-untyped-call]
