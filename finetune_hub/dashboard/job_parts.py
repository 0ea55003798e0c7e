"""Template contexts for the parts of a job's page that change while it runs."""

from __future__ import annotations

from typing import Any

from finetune_hub.jobs.models import Job, MetricPoint

EVENTS_SHOWN = 100
LOG_CHARACTERS_SHOWN = 16_000


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
