"""How the service refuses a request: a problem, its defects, and the kind of refusal.

Actions raise it; the page shows it next to the field, the API sends it as its error body, and the CLI prints it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from finetune_hub.spec.problem import Explained, Failed, FailureClass, Problem

# Why the request cannot be carried out. The API maps each kind to an HTTP status.
RefusalKind = Literal[
    "invalid",
    "malformed",
    "forbidden",
    "missing",
    "gone",
    "conflict",
    "too_large",
    "too_many",
    "too_slow",
    "outside",
    "failed",
    "no_room",
    "unavailable",
]
NAMED_DEFECTS = 4


class Refusal(Explained):
    """The request cannot be carried out as it is."""

    failure_class: FailureClass = "bad_config"

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str,
        *,
        field: str | None = None,
        details: Sequence[dict[str, Any]] = (),
        kind: RefusalKind = "invalid",
        failure_class: FailureClass | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        """
        Args:
            details: One entry per defect, as the API sends it.
            failure_class: The failure class of a run that gets this refusal; None: the exception class's default.
            retry_after_seconds: When to try again; None: unknown, or it would not help.
        """
        super().__init__(Problem(code, message, remedy, field))
        self.details, self.kind, self.retry_after_seconds = list(details), kind, retry_after_seconds
        self.failure_class = failure_class or self.failure_class

    @property
    def failed(self) -> Failed:
        """The failure, with the first defects of a file in its message, as a failure has no `details`."""
        first = [detail for detail in self.details[1:NAMED_DEFECTS] if detail.get("line")]
        defects = [f"line {detail['line']}: {detail['message']}" for detail in first]
        return Failed(self.failure_class, " ".join([self.message, *defects]), self.remedy)
