"""Locate parts of a JSON value in its text, so that errors can point at them."""

from __future__ import annotations

import json
import re

from finetune_hub.data.defects import Path

_BLANK = re.compile(r"\s*")
_decode = json.JSONDecoder().raw_decode


def place_of(raw: bytes, path: Path) -> tuple[int, int] | None:
    """Return the line offset from 0 and column from 1 of the value at the path, or of its parent if it is missing.

    None: `json` cannot read the text, or it is nested too deeply.
    """
    text = raw.decode()
    try:
        offset = _offset_of(text, path)
    except (ValueError, IndexError, RecursionError):
        return None
    begins = text.rfind("\n", 0, offset) + 1
    return text.count("\n", 0, offset), offset - begins + 1


def _offset_of(text: str, path: Path) -> int:
    offset = _skip_blank(text, 0)
    for part in path:
        inside = _member(text, offset, part) if isinstance(part, str) else _item(text, offset, part)
        if inside is None:
            return offset
        offset = inside
    return offset


def _member(text: str, offset: int, name: str) -> int | None:
    """Return the offset of the object's value with this name."""
    if text[offset] != "{":
        return None
    offset = _skip_blank(text, offset + 1)
    while text[offset] == '"':
        key, offset = _decode(text, offset)
        offset = _skip_blank(text, _skip_blank(text, offset) + 1)  # Skip the colon.
        if key == name:
            return offset
        offset = _next(text, offset)
    return None


def _item(text: str, offset: int, index: int) -> int | None:
    if text[offset] != "[":
        return None
    offset = _skip_blank(text, offset + 1)
    for _ in range(index):
        offset = _next(text, offset)
    return offset


def _next(text: str, offset: int) -> int:
    """Return the offset after the value that starts here and its comma."""
    offset = _skip_blank(text, _decode(text, offset)[1])
    return _skip_blank(text, offset + 1) if text[offset] == "," else offset


def _skip_blank(text: str, offset: int) -> int:
    blank = _BLANK.match(text, offset)
    assert blank is not None
    return blank.end()
