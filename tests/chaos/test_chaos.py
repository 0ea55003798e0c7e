"""Seven faults by a seed: nothing lost, nothing twice. `make verify-full` has three hundred."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.program import Program

SEED, FAULTS = 2257, 7  # Trainer, supervisor, Valkey emptied, network, Postgres, the far worker, and `up` itself.


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_happens_twice(tmp_path: Path) -> None:
    outcome = Program(tmp_path, seed=SEED, count=FAULTS).run()
    assert not outcome.findings, outcome.table()
    assert outcome.jobs["succeeded"], outcome.table()
