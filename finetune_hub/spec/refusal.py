"""The one way in which the service says no: a code for programs, a sentence for people, and what to do about it.

Actions raise it; the page shows it beside the field, the API sends it as its error body, and the CLI prints it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

# In which way it cannot be carried out. What that is in HTTP, the API says.
RefusalKind = Literal[
    "invalid", "malformed", "forbidden", "missing", "gone", "conflict", "too_large", "too_many", "failed", "unavailable"
]


class Refusal(Exception):
    """The request cannot be carried out as it is."""

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str,
        *,
        field: str | None = None,
        details: Sequence[dict[str, Any]] = (),
        kind: RefusalKind = "invalid",
    ) -> None:
        super().__init__(f"{message} {remedy}")
        self.code, self.message, self.remedy = code, message, remedy
        self.field, self.details, self.kind = field, list(details), kind
