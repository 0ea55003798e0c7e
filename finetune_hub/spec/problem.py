"""What went wrong and what to do, in one form from engine, files and actions to page, API and terminal.

    Problem     the value that is stored, sent and shown
    Failed      the problem that ended a run; its code is the failure class
    Explained   an exception with a problem; code that catches it passes `problem` or `failed` on unchanged

`docs/api-errors.md` lists the codes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

FailureClass = Literal[
    "bad_config",
    "bad_data",
    "out_of_memory",
    "diverged",
    "worker_lost",
    "infrastructure",
    "timed_out",
    "dependency",
    "internal",
]


@dataclass(frozen=True)
class Problem:
    """What went wrong, where, and what to do about it.

    Attributes:
        code: For programs.
        message: A sentence; for a defect, which is shown after its location, a clause without a full stop.
        remedy: What to do, in full sentences; empty if unknown.
        field: The part of the request, or of the row: `training.epochs`, `messages[1].role`.
        line: Line of the file, counted from 1; for a Parquet file, the row.
        column: Character in that line, counted from 1.
    """

    code: str
    message: str
    remedy: str
    field: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


@dataclass(frozen=True)
class Failed(Problem):
    """Why a run failed."""

    code: FailureClass


class Explained(Exception):
    """An error that says what went wrong and what to do.

    Attributes:
        failure_class: The failure class of a run that this error ends.
    """

    failure_class: FailureClass = "internal"

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return str(self.problem)

    def __reduce__(self) -> tuple[Any, ...]:
        """Let it be pickled whatever arguments its class takes."""
        return _unpickle, (type(self), self.__dict__)

    @property
    def code(self) -> str:
        return self.problem.code

    @property
    def message(self) -> str:
        return self.problem.message

    @property
    def remedy(self) -> str:
        return self.problem.remedy

    @property
    def field(self) -> str | None:
        return self.problem.field

    @property
    def failed(self) -> Failed:
        """The failure of a run that this error ended."""
        return Failed(self.failure_class, self.message, self.remedy)

    def put_at(self, place: str) -> None:
        """Prefix the message with a location, such as `recipe.yaml, line 3`, before the error is raised again."""
        self.problem = replace(self.problem, message=f"{place}: {self.message}")


def _unpickle(kind: type[Explained], attributes: dict[str, Any]) -> Explained:
    explained = kind.__new__(kind, attributes["problem"])
    explained.__dict__.update(attributes)
    return explained
