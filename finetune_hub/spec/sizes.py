"""Sizes of files and memory for people: decimal, as disks and GPUs are sold."""

from __future__ import annotations

UNITS = ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB"))


def size_in_words(size_bytes: float) -> str:
    """`23.5 GB`, `134 MB`, `1.5 MB`, `512 bytes`."""
    for power, unit in UNITS:
        value = size_bytes / 10**power
        if value >= 1:
            return f"{value:.1f} {unit}" if power >= 9 or value < 10 else f"{value:.0f} {unit}"
    return f"{size_bytes:.0f} byte{'' if size_bytes == 1 else 's'}"
