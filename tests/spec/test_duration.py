"""Durations are read as people write them, and written in one way."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_hub.spec.duration import seconds_of
from finetune_hub.spec.training import RuntimeOptions


@pytest.mark.parametrize(
    ("typed", "kept", "seconds"),
    [
        ("4h", "4h", 14_400),
        (14_400, "4h", 14_400),
        ("14400", "4h", 14_400),
        (" 1 D 12 h ", "1d12h", 129_600),
        ("1.5h", "1h30m", 5400),
        (90.0, "1m30s", 90),
        ("36h", "1d12h", 129_600),
        ("45s", "45s", 45),
    ],
)
def test_what_is_typed(typed: object, kept: str, seconds: int) -> None:
    runtime = RuntimeOptions(max_duration=typed)
    assert (runtime.max_duration, runtime.max_duration_seconds) == (kept, seconds)
    assert seconds_of(kept) == seconds
    assert RuntimeOptions(max_duration=kept) == runtime


@pytest.mark.parametrize(
    "typed", ["", "0", 0, "0s", "soon", "4 hours", "-4h", "h", True, -5, "1h 2x", [], "nan", "9" * 400, 10**400]
)
def test_what_is_no_duration(typed: object) -> None:
    with pytest.raises(ValidationError):
        RuntimeOptions(max_duration=typed)


def test_none_is_no_limit() -> None:
    assert RuntimeOptions().max_duration_seconds is None
