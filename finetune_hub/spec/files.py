"""A file entry of a manifest, and the rule for paths inside an artifact."""

from __future__ import annotations

from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, field_validator


class InvalidArtifactPath(ValueError):
    """The path points outside its folder."""


def check_relative_path(path: str) -> str:
    """Return the path if it is relative, normalised, and stays inside its folder.

    Raises:
        InvalidArtifactPath: it is empty, absolute, contains `..` or a backslash, or is not normalised.
    """
    pure = PurePosixPath(path)
    if not path or pure.is_absolute() or ".." in pure.parts or "\\" in path or "\0" in path or str(pure) != path:
        raise InvalidArtifactPath(
            f"The path {path!r} points outside its folder. Use a relative path like 'adapter/README.md', without '..'."
        )
    return path


class FileEntry(BaseModel):
    """One file of a manifest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = Field(description="Relative, with forward slashes.")
    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    _stays_inside = field_validator("path")(check_relative_path)
