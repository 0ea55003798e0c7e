"""Texts of a document that name a row of the team: a form offers the rows that there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class Reference:
    """Marks such a text."""

    noun: Literal["base_model", "dataset", "adapter"]


BaseModelName = Annotated[str, Field(min_length=1, max_length=255), Reference("base_model")]
VersionName = Annotated[str, Field(min_length=1, max_length=80)]
DatasetName = Annotated[VersionName, Reference("dataset")]
"""`name` for the newest version, or `name@2`."""
AdapterName = Annotated[VersionName, Reference("adapter")]
"""`name` or id for the newest version, or `name@2`."""


def split_version(name: str) -> tuple[str, int | None]:
    """`tickets@2` → `tickets` and 2; without a number the newest is meant: None."""
    head, at, number = name.rpartition("@")
    return (head, int(number)) if at and number.isascii() and number.isdigit() else (name, None)
