"""The header of a safetensors file, checked before memory is allocated for its contents.

    8 bytes: length of the header · the header, JSON: name → dtype, shape, data_offsets · the tensors without a gap

Source: https://github.com/huggingface/safetensors, "Format".
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 32 << 20
MAX_TENSORS = 200_000
MAX_DIMENSIONS = 16
_BITS = {
    **dict.fromkeys(["F64", "I64", "U64", "C64"], 64),
    **dict.fromkeys(["F32", "I32", "U32"], 32),
    **dict.fromkeys(["F16", "BF16", "I16", "U16"], 16),
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    "F4": 4,
}


class BadHeader(ValueError):
    """The file is not a complete safetensors file; the message is a clause."""


def header_bytes_of(path: Path) -> int:
    """Return the size of the header in bytes.

    Raises:
        BadHeader: it is larger than the file, or than `MAX_HEADER_BYTES`.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > path.stat().st_size - 8:
        raise BadHeader("the header is longer than the file")
    if header_bytes > MAX_HEADER_BYTES:
        raise BadHeader(f"the header has {header_bytes:,} bytes, more than {MAX_HEADER_BYTES:,}")
    return header_bytes


def read_tensors(path: Path) -> dict[str, dict[str, Any]]:
    """Return `dtype` and `shape` of every tensor by name.

    Raises:
        BadHeader: a tensor's size does not match its shape, or the tensors overlap or do not cover the file.
    """
    header_bytes = header_bytes_of(path)
    with path.open("rb") as file:
        file.seek(8)
        text = file.read(header_bytes)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as broken:
        raise BadHeader("the header is not JSON") from broken
    if not isinstance(header, dict):
        raise BadHeader("the header is not a JSON object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise BadHeader(f"it has {len(header):,} tensors, more than {MAX_TENSORS:,}")
    spans = sorted(_span_of(name, tensor) for name, tensor in header.items())
    at = 0
    for start, end in spans:
        if start != at:
            raise BadHeader("its tensors overlap" if start < at else "there are bytes between its tensors")
        at = end
    size_bytes = path.stat().st_size
    if size_bytes != 8 + header_bytes + at:
        raise BadHeader(f"it has {size_bytes:,} bytes instead of {8 + header_bytes + at:,}")
    return header


def _span_of(name: str, tensor: Any) -> tuple[int, int]:
    """Return where the tensor begins and ends in the data."""
    try:
        bits, shape, (start, end) = _BITS[tensor["dtype"]], tensor["shape"], tensor["data_offsets"]
        numbers = [*shape, start, end]
        are_sizes = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
    except (KeyError, TypeError, ValueError) as broken:
        raise BadHeader(f"the header does not describe {name[:100]!r}") from broken
    if len(numbers) > MAX_DIMENSIONS + 2 or not are_sizes:
        raise BadHeader(f"shape or offsets of {name[:100]!r} are not valid")
    if (end - start) * 8 != prod(shape) * bits:
        raise BadHeader(f"the size of {name[:100]!r} does not match its shape")
    return start, end
