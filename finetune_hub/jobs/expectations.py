"""How long jobs take, as far as is known: trainings by the planner's word, others by what finished ones took."""

from __future__ import annotations

from datetime import datetime, timedelta
from statistics import median

from finetune_hub.jobs.models import Attempt, AttemptState, Job, JobKind
from finetune_hub.jobs.planning import plan_training
from finetune_hub.spec.refusal import Refusal

REMEMBERED_ATTEMPTS = 20
STARTUP_SECONDS = 20.0  # Of a training: its processes start, and at its end the adapter is verified and stored.


def expected_seconds(job: Job) -> float | None:
    """The whole job's time on the device that suits it best; None: nobody knows."""
    if job.kind != JobKind.TRAIN:
        return _usual_seconds(job.kind)
    try:
        devices = plan_training(job.team, job.training_spec()).devices
    except Refusal:
        return None
    seconds = next((device.total_seconds for device in devices if device.verdict != "does_not_fit"), None)
    return None if seconds is None else STARTUP_SECONDS + seconds


def _usual_seconds(kind: str) -> float | None:
    ended = Attempt.objects.filter(job__kind=kind, state=AttemptState.SUCCEEDED, started_at__isnull=False)
    durations = [attempt.duration for attempt in ended.defer("log_tail").order_by("-pk")[:REMEMBERED_ATTEMPTS]]
    seconds = [duration.total_seconds() for duration in durations if duration]
    return median(seconds) if seconds else None


def seconds_left(expected: float | None, step: int, total_steps: int | None) -> float | None:
    """Of a job that has taken `step` steps, of which a checkpoint keeps all but the last few."""
    if expected is None or not total_steps:
        return expected
    return expected * max(0.0, 1 - step / total_steps)


def expected_end(started_at: datetime, now: datetime, eta_seconds: float | None, left: float | None) -> float | None:
    """Unix seconds; by the speed of its newest steps, once there are some.

    Args:
        left: what the job was expected to take when this attempt began.
    """
    if eta_seconds is not None:
        return (now + timedelta(seconds=eta_seconds)).timestamp()
    return None if left is None else started_at.timestamp() + left
