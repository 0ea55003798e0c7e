"""Failures that the engine can explain: each has its class, what went wrong, and what the user can do."""

from __future__ import annotations

from finetune_hub.spec.problem import Explained, Failed, FailureClass


class EngineError(Explained):
    """The run cannot continue."""

    failure_class: FailureClass = "internal"

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(Failed(self.failure_class, message, remedy))


class BadConfig(EngineError):
    """The settings do not fit the base model, the device or each other."""

    failure_class: FailureClass = "bad_config"


class BadData(EngineError):
    """The dataset cannot be trained on."""

    failure_class: FailureClass = "bad_data"


class Diverged(EngineError):
    """The loss is no longer a number."""

    failure_class: FailureClass = "diverged"


class OutOfMemory(EngineError):
    """The run does not fit the device's memory."""

    failure_class: FailureClass = "out_of_memory"


class Infrastructure(EngineError):
    """The machine failed rather than the run."""

    failure_class: FailureClass = "infrastructure"


class StopRequested(BaseException):
    """The run was asked to stop. A BaseException, so that no `except Exception` catches it."""

    def __init__(self, step: int = 0) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step
