"""Which bytes of a file a request asks for, by its `Range` header.

    bytes=0-99    the first 100         bytes=100-   from byte 100 on         bytes=-100   the last 100

Several ranges at once, and what is no range of bytes, are ignored: the whole file is a right answer to them.
Source: RFC 9110, section 14.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from finetune_hub.spec.refusal import Refusal

_RANGE = re.compile(r"bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})", re.ASCII | re.IGNORECASE)


class RangeRefused(Refusal):
    """The file has no byte of the range."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        super().__init__(
            "range_not_satisfiable",
            f"The file has {size_bytes:,} bytes, none of which is in the requested range.",
            "Request a range inside the file, or the whole file.",
            field="Range",
            kind="outside",
        )


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive bytes of a file."""

    start: int
    length: int

    def content_range(self, size_bytes: int) -> str:
        """Return the value of the `Content-Range` header."""
        return f"bytes {self.start}-{self.start + self.length - 1}/{size_bytes}"


def requested_span(header: str, size_bytes: int) -> Span | None:
    """Return the requested bytes; None: the whole file.

    Raises:
        RangeRefused: the file has none of them.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        start, end = max(0, size_bytes - int(match[2])), size_bytes - 1
    else:
        start, end = int(match[1]), int(match[2] or size_bytes - 1)
        if match[2] and end < start:
            return None
    end = min(end, size_bytes - 1)
    if start > end:
        raise RangeRefused(size_bytes)
    return Span(start, end - start + 1)
