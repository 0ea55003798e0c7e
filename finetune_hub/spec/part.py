"""What every part of a spec shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of the spec: immutable, and a misspelt key is an error instead of a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
