"""Whole numbers in URLs and forms: sizes, offsets, ids and steps."""

from __future__ import annotations

LARGEST = 2**63 - 1
"""The largest integer of a database column."""


def number_of(text: str) -> int | None:
    """Parse a number from 0 to `LARGEST` in plain digits; None for any other text.

    Python's `int` raises an error of its own for thousands of digits.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST))):
        return None
    number = int(text)
    return number if number <= LARGEST else None
