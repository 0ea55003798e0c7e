"""Whole numbers as clients write them in an address or a form: sizes, offsets, ids and steps."""

from __future__ import annotations

LARGEST = 2**63 - 1
"""What a column of the database holds."""


def number_of(text: str) -> int | None:
    """The number, 0 or more, that the text spells in plain digits; None: it spells none, or one above `LARGEST`.

    Python itself refuses to read thousands of digits, by an error that is none of a client's input.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST))):
        return None
    number = int(text)
    return number if number <= LARGEST else None
