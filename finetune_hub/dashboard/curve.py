"""A job's loss curve as JSON, for the page's chart and for scripts."""

from __future__ import annotations

import math
from typing import Any

from django.db.models import F, Q
from django.db.models.functions import Mod

from finetune_hub.jobs.models import Job, MetricPoint
from finetune_hub.spec.measures import MEASURES

MAX_POINTS = 1000  # About one per pixel of the chart.


def curve_points(job: Job, *, after: int = 0) -> list[dict[str, Any]]:
    """Return the points after step `after`. If there are too many, every n-th point and the newest."""
    points = MetricPoint.objects.curve_of(job).filter(step__gt=after)
    stride = math.ceil(max(job.step - after, 0) / MAX_POINTS)
    if stride > 1:
        points = points.alias(rest=Mod(F("step"), stride)).filter(Q(rest=0) | Q(step=job.step))
    return [point_json(point) for point in points]


def point_json(point: MetricPoint) -> dict[str, Any]:
    """Convert a point for the chart. Requires `with_attempt_number()`."""
    return {
        "step": point.step,
        "attempt": point.attempt_number,
        "loss": finite(point.loss),
        "learning_rate": finite(point.learning_rate),
        "grad_norm": finite(point.grad_norm),
        "tokens": point.tokens,
        "seconds": finite(point.seconds),
        **dict.fromkeys(MEASURES),
        **point.measures,
    }


def finite(number: float | None) -> float | None:
    """Replace NaN and infinity by None, as JSON has neither."""
    return number if number is not None and math.isfinite(number) else None
