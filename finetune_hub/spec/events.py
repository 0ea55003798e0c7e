"""Events that the engine reports while it runs: one JSON line each in `events.jsonl`, distinguished by `type`.

The worker tails the file by offset, so a line must be complete once its newline is written.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.measures import MEASURES
from finetune_hub.spec.part import Part
from finetune_hub.spec.problem import Failed, FailureClass


class Event(Part):
    at: float = Field(default_factory=time.time, description="Unix time in seconds.")


class Log(Event):
    type: Literal["log"] = "log"
    level: Literal["info", "warn", "error"] = "info"
    message: str


class Plan(Event):
    """What the run is going to do. Sent once, before the first step."""

    type: Literal["plan"] = "plan"
    total_steps: int
    first_step: int = Field(description="0 for a fresh run; the checkpoint's step for a resumed one.")
    rows: int
    held_out_rows: int = 0
    supervised_tokens: int = Field(description="In one epoch, after truncation.")
    truncated_rows: int
    trainable_parameters: int
    total_parameters: int
    dtype: str
    device: str


class Step(Event):
    """One optimizer step."""

    type: Literal["step"] = "step"
    step: int = Field(ge=1)
    epoch: float
    loss: float = Field(description="Mean over the step's supervised tokens, or over its pairs (DPO), in nats.")
    learning_rate: float
    grad_norm: float
    tokens: int = Field(description="Real tokens of this step; padding is not counted.")
    supervised_tokens: int
    seconds: float = Field(description="Wall time of this step.")
    peak_memory_bytes: int = Field(description="Peak resident memory on CPU, peak allocated memory on CUDA.")
    measures: dict[str, float] = Field({}, description="The objective's other measures: see `spec.measures`.")

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, event: Any) -> Any:
        """Move measures into `measures`. Before 0.1 each had its own field, and old runs still have such lines."""
        if not isinstance(event, dict) or not event.keys() & MEASURES.keys():
            return event
        known = {name: value for name, value in event.items() if name in MEASURES and value is not None}
        rest = {name: value for name, value in event.items() if name not in MEASURES}
        return rest | {"measures": rest.get("measures", {}) | known}


class Sample(Part):
    """A held-out row with the adapter's answer at this step."""

    prompt: str
    expected: str
    answer: str


class Evaluated(Event):
    """The loss on the held-out rows was measured."""

    type: Literal["evaluation"] = "evaluation"
    step: int
    loss: float = Field(
        description="Mean over all held-out supervised tokens, or pairs (DPO), in nats, without label smoothing."
    )
    is_best: bool = Field(description="The loss is lower than at every earlier evaluation.")
    rows: int
    seconds: float
    samples: list[Sample] = []


class Checkpointed(Event):
    """A checkpoint is complete on disk. `path` is relative to the run's `output_dir`, `files` to `path`."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    path: str
    files: list[FileEntry]


class Progress(Event):
    """Progress of a command without optimizer steps (import, evaluate)."""

    type: Literal["progress"] = "progress"
    done: int
    total: int
    unit: str


class Resolved(Event):
    """The commit that a Hugging Face reference resolves to. A later attempt fetches the same commit."""

    type: Literal["resolved"] = "resolved"
    repository: str
    commit: str
    license: str = Field(description="From the repository's card; empty if it names none.")
    access: Literal["open", "gated", "private"]


class Listening(Event):
    """The run accepts requests at this address until it ends."""

    type: Literal["listening"] = "listening"
    address: str = Field(max_length=200, description="A URL.")


class Failure(Event):
    """The run failed: what went wrong, and what the user can do."""

    type: Literal["failure"] = "failure"
    failure_class: FailureClass
    message: str
    remedy: str

    @classmethod
    def of(cls, failed: Failed) -> Self:
        return cls(failure_class=failed.code, message=failed.message, remedy=failed.remedy)

    @property
    def failed(self) -> Failed:
        return Failed(self.failure_class, self.message, self.remedy)


class Stopped(Event):
    """The run was asked to stop (SIGTERM). If it had taken a step, it wrote a checkpoint first."""

    type: Literal["stopped"] = "stopped"
    step: int


EngineEvent = Annotated[
    Log | Plan | Step | Evaluated | Checkpointed | Progress | Resolved | Listening | Failure | Stopped,
    Field(discriminator="type"),
]
engine_event: TypeAdapter[EngineEvent] = TypeAdapter(EngineEvent)

# Exit statuses of `python -m finetune_hub.engine`.
EXIT_SUCCEEDED = 0
EXIT_FAILED = 10  # A `failure` event says why.
EXIT_STOPPED = 20  # A `stopped` event says at which step.
EXIT_UNSAID = 30  # No event could be written: the disk is full or gone.
