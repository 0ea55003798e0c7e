"""The header of a safetensors file, checked before anybody makes room for what it announces.

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
    """The file is no whole safetensors file; the message is a clause."""


def header_bytes_of(path: Path) -> int:
    """How long the header is.

    Raises:
        BadHeader: longer than the file, or than any header is.
    """
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > path.stat().st_size - 8:
        raise BadHeader("the header is longer than the file")
    if header_bytes > MAX_HEADER_BYTES:
        raise BadHeader(f"the header has {header_bytes:,} bytes, and {MAX_HEADER_BYTES:,} at most are read")
    return header_bytes


def read_tensors(path: Path) -> dict[str, dict[str, Any]]:
    """Name → `dtype` and `shape` of every tensor.

    Raises:
        BadHeader: a tensor's size is not that of its shape, or the tensors overlap, or leave a part of the file out.
    """
    header_bytes = header_bytes_of(path)
    with path.open("rb") as file:
        file.seek(8)
        text = file.read(header_bytes)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as broken:
        raise BadHeader("the header is no JSON") from broken
    if not isinstance(header, dict):
        raise BadHeader("the header is no JSON object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise BadHeader(f"it has {len(header):,} tensors, and {MAX_TENSORS:,} at most are read")
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
    """Where in the data the tensor begins and ends."""
    try:
        bits, shape, (start, end) = _BITS[tensor["dtype"]], tensor["shape"], tensor["data_offsets"]
        numbers = [*shape, start, end]
        are_sizes = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
    except (KeyError, TypeError, ValueError) as broken:
        raise BadHeader(f"the header does not describe {name[:100]!r}") from broken
    if len(numbers) > MAX_DIMENSIONS + 2 or not are_sizes:
        raise BadHeader(f"shape or place of {name[:100]!r} are no sizes")
    if (end - start) * 8 != prod(shape) * bits:
        raise BadHeader(f"the place of {name[:100]!r} is not as large as its shape")
    return start, end
