"""Each target takes its valid inputs and some broken ones; `make verify-fuzz` sends a million."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_target(name: str) -> None:
    target = TARGETS[name]
    for seed in [*target.seeds, b"", b"\0", b"\xff" * 9, b"[" * 2000, b"{" * 2000, b"9" * 9999]:
        for data in (seed, seed[: len(seed) // 2], seed[::-1], seed * 3):
            target.parse(data)
