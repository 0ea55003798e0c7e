"""The line of a training run on this machine."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from finetune_hub.cli.engine_process import EngineProcess
from finetune_hub.cli.training_progress import RunSoFar
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.events import EngineEvent, Plan, Step


def step_event(**rewards: float) -> Step:
    return Step(
        step=3,
        epoch=0.3,
        loss=0.5,
        learning_rate=2e-5,
        grad_norm=1.0,
        tokens=100,
        supervised_tokens=10,
        seconds=0.5,
        peak_memory_bytes=2**30,
        **rewards,
    )


def test_a_line_tells_rewards_of_pairs_alone() -> None:
    progress = RunSoFar("finetune-hub train r.yaml --output o --resume")
    progress.plan = Plan.model_construct(total_steps=10)
    progress.add(step_event())
    assert progress.line() == "step 3/10  loss 0.5000  200 tokens/s  1.1 GB  0:00:04 left"
    progress.add(step_event(reward_margin=0.25, reward_accuracy=0.875))
    assert "loss 0.5000  margin 0.250  accuracy 88%  200 tokens/s" in progress.line()


def test_an_interrupt_loses_no_event(tmp_path: Path) -> None:
    engine = EngineProcess("x", Plan.model_construct(total_steps=10), tmp_path, module="this")
    with EventLog(tmp_path) as events:
        for _ in range(3):
            events.emit(step_event())
    seen: list[EngineEvent] = []

    def follow() -> None:
        for event in engine.follow():
            seen.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        follow()
    assert len(seen) == 3
    assert list(engine.follow()) == []
    assert engine.exit_status == 0
    with pytest.raises(KeyboardInterrupt):  # From then on, Ctrl-C is again what it was.
        signal.raise_signal(signal.SIGINT)
