"""Durations as people write them: `90s`, `45m`, `4h`, `1d12h`. A plain number is seconds."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_MAX_CHARACTERS = 40
_PARTS = re.compile(r"(?:\s*\d+(?:\.\d+)?\s*[dhms])+\s*")
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])")


def seconds_of(duration: str) -> int:
    """Return the number of seconds in a `Duration`."""
    return round(sum(float(number) * UNITS[unit] for number, unit in _PART.findall(duration)))


def written_duration(seconds: int) -> str:
    """Return the shortest form, such as `1d12h`: largest unit first, parts that are 0 omitted."""
    parts = []
    for unit, size in UNITS.items():
        count, seconds = divmod(seconds, size)
        parts.append(f"{count}{unit}" if count else "")
    return "".join(parts)


def _normal(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return value
    text = str(value).strip().lower()
    if len(text) > _MAX_CHARACTERS:
        raise ValueError("a duration is short: write seconds, or for example `45m`, `4h` or `1d12h`")
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "s"
    if not _PARTS.fullmatch(text) or not (seconds := seconds_of(text)):
        raise ValueError(f"{value!r} is not a duration: write seconds, or for example `45m`, `4h` or `1d12h`")
    return written_duration(seconds)


Duration = Annotated[str, BeforeValidator(_normal, json_schema_input_type=int | str)]
