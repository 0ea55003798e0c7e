"""News about a job as server-sent events.

    event: metrics   JSON: points of the curve, each once
    event: history   HTML: its newest events
    event: state     the job's new state, which changes the page's buttons
    event: summary   HTML: state, why it waits, progress, newest metrics
    event: attempts  HTML: each attempt with its state, worker and devices
    event: log       HTML: the end of the newest attempt's output
    event: end       the stream is complete

All watchers of a job in a process share its feed: only a watcher that is behind needs its own query.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import NamedTuple

from finetune_hub.dashboard.job_feed import JobFeed, Position, Snapshot, job_feeds
from finetune_hub.spec.numbers import number_of

KEEP_ALIVE = ": keep-alive\n\n"


class Cursor(NamedTuple):
    """How far a watcher is: the id of each event, which the browser sends back as `Last-Event-ID`."""

    event_number: int = 0
    attempt_number: int = 0
    step: int = 0

    def __str__(self) -> str:
        return f"{self.event_number}-{self.attempt_number}-{self.step}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Parse a cursor; return the beginning if the text is not one."""
        numbers = [number for part in text.split("-") if (number := number_of(part)) is not None]
        return cls(*numbers) if len(numbers) == text.count("-") + 1 == len(cls._fields) else cls()

    @property
    def point(self) -> Position:
        return Position(self.attempt_number, self.step)


@dataclass(slots=True)
class Watcher:
    """A client that watches a job, and what it has received."""

    user_id: int
    cursor: Cursor
    shown: dict[str, str] = field(default_factory=dict)
    """The newest content of each part, initially what the page already shows."""

    async def stream(self, job_id: str) -> AsyncGenerator[str, None]:
        """Yield the job's events until it has ended or the user may no longer see it."""
        with job_feeds().watched_by(self.user_id, job_id) as feed:
            snapshot = await feed.first()
            while self.user_id not in snapshot.is_hidden_from:
                is_quiet = True
                async for text in self._news(feed, snapshot):
                    is_quiet = False
                    yield text
                if snapshot.is_over:
                    break
                if is_quiet:
                    yield KEEP_ALIVE
                snapshot = await feed.after(snapshot)
            yield event("end", "", self.cursor)

    async def _news(self, feed: JobFeed, snapshot: Snapshot) -> AsyncIterator[str]:
        while snapshot.newest_point > self.cursor.point and (points := await feed.points_after(self.cursor.point)):
            self.cursor = Cursor(self.cursor.event_number, *points.last)
            yield event("metrics", points.json, self.cursor)
        if snapshot.event_count > self.cursor.event_number:
            self.cursor = self.cursor._replace(event_number=snapshot.event_count)
            yield event("history", snapshot.history, self.cursor)
        for name, data in snapshot.parts.items():
            if self.shown.get(name) != data:
                self.shown[name] = data
                yield event(name, data, self.cursor)


def event(name: str, data: str, cursor: Cursor) -> str:
    """Return one server-sent event."""
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\nid: {cursor}\n{lines}\n"
