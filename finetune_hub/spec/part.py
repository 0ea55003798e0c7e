"""The base class of all parts of a spec."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A part of the spec: immutable, and a misspelt key is an error instead of a silent default."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Return the values that a `Literal` field allows; empty for any other field."""
    return get_args(annotation) if get_origin(annotation) is Literal else ()
