"""What every part of a spec shares."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of the spec: immutable, and a misspelt key is an error instead of a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def choices_of(annotation: Any) -> tuple[str, ...]:
    """The words that a field may hold; none: they are not counted up."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()
