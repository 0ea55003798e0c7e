"""When jobs are expected to end. Each kind says how long a whole job takes."""

from __future__ import annotations

from datetime import datetime, timedelta


def seconds_left(expected: float | None, step: int, total_steps: int | None) -> float | None:
    """Return the expected seconds left for a job after `step` steps."""
    if expected is None or not total_steps:
        return expected
    return expected * max(0.0, 1 - step / total_steps)


def expected_end(started_at: datetime, now: datetime, eta_seconds: float | None, left: float | None) -> float | None:
    """Return the expected end in unix seconds, from the speed of the newest steps if there are any.

    Args:
        left: seconds that the job was expected to take when this attempt began.
    """
    if eta_seconds is not None:
        return (now + timedelta(seconds=eta_seconds)).timestamp()
    return None if left is None else started_at.timestamp() + left
