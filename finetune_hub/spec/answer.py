"""What every answer of the API shares, where a client reads it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Answer(BaseModel):
    """An answer, or a part of one.

    What a newer hub adds is kept, and printed by `--json`. A declared field that is missing makes it no answer.
    """

    model_config = ConfigDict(extra="allow", defer_build=True)
