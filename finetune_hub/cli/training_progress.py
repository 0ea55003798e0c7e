"""Progress of a training run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from finetune_hub.cli.engine_process import EngineProcess
from finetune_hub.cli.output import measures, size
from finetune_hub.spec.events import EngineEvent, Evaluated, Failure, Log, Plan, Step
from finetune_hub.spec.problem import Failed

LINE_EVERY_STEPS = 10
RECENT_STEPS = 20  # Basis of speed and remaining time.


@dataclass
class RunSoFar:
    """What the run has reported so far."""

    resume_command: str
    plan: Plan | None = None
    steps: list[Step] = field(default_factory=list)
    failure: Failed | None = None

    def add(self, event: EngineEvent) -> str | None:
        """Process an event. Returns the line to print for it, if any."""
        match event:
            case Plan():
                self.plan = event
                share = event.trainable_parameters / event.total_parameters
                return (
                    f"{event.total_steps} steps over {event.rows} rows in {event.dtype} on {event.device}; "
                    f"{event.trainable_parameters:,} of {event.total_parameters:,} parameters are trained ({share:.2%})"
                )
            case Step():
                self.steps.append(event)
            case Evaluated():
                shown = [f"  {sample.answer!r} (expected {sample.expected!r})" for sample in event.samples]
                mark = ", the lowest so far" if event.is_best else ""
                return "\n".join([f"step {event.step}: held-out loss {event.loss:.4f}{mark}", *shown])
            case Failure():
                self.failure = event.failed
            case Log():
                return {"warn": "warning: ", "error": "error: "}.get(event.level, "") + event.message
        return None

    def line(self) -> str:
        """Return `step 12/100  loss 1.2345  512 tokens/s  1.9 GB  0:01:05 left`, with the objective's measures."""
        if not self.steps or self.plan is None:
            return "reading the data and the base model …"
        last = self.steps[-1]
        recent = self.steps[-RECENT_STEPS:]
        seconds = sum(step.seconds for step in recent)
        left = (self.plan.total_steps - last.step) * seconds / len(recent)
        return "  ".join(
            [
                f"step {last.step}/{self.plan.total_steps}",
                *measures(last.loss, last.measures),
                f"{sum(step.tokens for step in recent) / seconds:.0f} tokens/s",
                size(last.peak_memory_bytes),
                f"{timedelta(seconds=round(left))} left",
            ]
        )


def follow(engine: EngineProcess, resume_command: str) -> RunSoFar:
    """Show the run until it has ended. Ctrl-C asks it to stop; its output until then is shown too."""
    progress = RunSoFar(resume_command)
    show = _show_bar if sys.stderr.isatty() else _show_lines
    while engine.exit_status is None:
        try:
            show(engine.follow(), progress)
        except KeyboardInterrupt:
            print("\nStopping after the current step. Writing a checkpoint …", file=sys.stderr, flush=True)
            engine.stop()
    return progress


def _show_lines(events: Iterable[EngineEvent], progress: RunSoFar) -> None:
    for event in events:
        line = progress.add(event)
        if isinstance(event, Step) and event.step % LINE_EVERY_STEPS == 0:
            line = progress.line()
        if line:
            print(line, file=sys.stderr, flush=True)


def _show_bar(events: Iterable[EngineEvent], progress: RunSoFar) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)
    with Bar(BarColumn(), TextColumn("{task.description}"), console=console, transient=True) as bar:
        task = bar.add_task(progress.line(), total=None)
        for event in events:
            if line := progress.add(event):
                console.print(line, markup=False)
            total = progress.plan.total_steps if progress.plan else None
            done = progress.steps[-1].step if progress.steps else 0
            bar.update(task, total=total, completed=done, description=progress.line())
