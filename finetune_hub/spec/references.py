"""String fields that name one of the team's objects, so that a form can offer the existing ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from finetune_hub.spec.numbers import number_of


@dataclass(frozen=True)
class Reference:
    """Marks such a field."""

    noun: Literal["base_model", "dataset", "adapter"]


BaseModelName = Annotated[str, Field(min_length=1, max_length=255), Reference("base_model")]
VersionName = Annotated[str, Field(min_length=1, max_length=80)]
DatasetName = Annotated[VersionName, Reference("dataset")]
"""`name` for the newest version, or `name@2`."""
AdapterName = Annotated[VersionName, Reference("adapter")]
"""`name` or id for the newest version, or `name@2`."""


def split_version(name: str) -> tuple[str, int | None]:
    """Split `tickets@2` into `tickets` and 2; without a number the version is None, for the newest."""
    head, at, number = name.rpartition("@")
    version = number_of(number) if at else None
    return (name, None) if version is None else (head, version)
