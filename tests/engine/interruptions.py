"""A training that is interrupted as a pause, a preemption and Ctrl-C do it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from finetune_hub.engine.errors import StopRequested
from finetune_hub.engine.train import loop
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.events import Event, Step
from finetune_hub.spec.run import TrainRun


class StopsAt(EventLog):
    """The signal that a pause, a preemption and Ctrl-C send comes in the middle of a step."""

    def __init__(self, output_dir: Path, step: int) -> None:
        super().__init__(output_dir)
        self.step = step

    def emit(self, event: Event) -> None:
        super().emit(event)
        if isinstance(event, Step) and event.step == self.step:
            signal.raise_signal(signal.SIGTERM)


def interrupt(run: TrainRun, step: int) -> TrainRun:
    """Train until the step. Returns the run that goes on from there."""
    with StopsAt(run.output_dir, step) as log, pytest.raises(StopRequested):
        loop.train(run, log)
    return run.model_copy(update={"resume_from": run.output_dir / "checkpoints" / f"step-{step}"})
