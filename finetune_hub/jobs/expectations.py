"""When jobs end, as far as is known. How long a whole one takes is for its kind to say."""

from __future__ import annotations

from datetime import datetime, timedelta


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
