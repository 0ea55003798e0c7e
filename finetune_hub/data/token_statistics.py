"""Row lengths in a base model's tokens, and what `max_seq_len` would truncate.

Each row is measured once: its length and its supervised spans. Truncation at any length is computed from these.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from pydantic import BaseModel, Field

from finetune_hub.data.chat_template import ChatTemplate, UnrenderableRow
from finetune_hub.data.encode import encode_row
from finetune_hub.data.rows import Row

MEASURED_ROWS = 1000
MEASURED_BYTES = 16 << 20
NAMED_ROWS = 20
_MAX_BARS = 24
_SEED = 7


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One row's length in tokens and its supervised spans, or a problem if the template refuses it."""

    number: int
    tokens: int
    supervised: tuple[tuple[int, int], ...]
    problem: str | None = None

    def supervised_within(self, max_seq_len: int) -> int:
        # The first token of a row is never predicted.
        return sum(max(0, min(end, max_seq_len) - max(start, 1)) for start, end in self.supervised)


class Bar(BaseModel):
    """One bar of the histogram."""

    from_tokens: int
    to_tokens: int = Field(description="Inclusive.")
    rows: int


class TokenStatistics(BaseModel):
    """Row lengths of a dataset version with one base model's template and tokenizer."""

    max_seq_len: int
    row_count: int
    measured_rows: int = Field(description="All rows, or a sample of them drawn with a fixed seed.")
    median_tokens: int
    longest_tokens: int
    histogram: list[Bar]
    truncated_rows: int = Field(description="Measured rows that are truncated.")
    lost_token_share: float = Field(description="Share of all tokens that is truncated.")
    lost_supervised_share: float = Field(description="Share of the supervised tokens that is truncated.")
    supervised_per_row: float = Field(description="Average supervised tokens per row after truncation.")
    silent_count: int = Field(description="Measured rows without a supervised token within `max_seq_len`.")
    silent_rows: list[int] = Field(description="Numbers of the first ones.")
    refused_count: int = Field(description="Measured rows that the chat template refuses.")
    refused_rows: list[int] = Field(description="Numbers of the first ones.")
    refusal: str | None = Field(description="The template's error for the first one.")


def numbers_to_measure(row_count: int, size_bytes: int) -> Sequence[int]:
    """Return all row numbers, or a sample, in ascending order; fewer if rows are long."""
    mean_bytes = max(1, size_bytes // row_count)
    count = max(1, min(MEASURED_ROWS, MEASURED_BYTES // mean_bytes))
    if row_count <= count:
        return range(1, row_count + 1)
    draw = random.Random(_SEED)  # noqa: S311  # Not security relevant.
    return sorted(draw.sample(range(1, row_count + 1), count))


def measure(template: ChatTemplate, rows: Iterable[tuple[int, Row]]) -> list[MeasuredRow]:
    """Measure each row's length and supervised spans.

    Raises:
        InvalidChatTemplate: the base model has no template, or one that cannot be used.
    """
    return [_measured(template, number, row) for number, row in rows]


def summarise(rows: Sequence[MeasuredRow], *, row_count: int, max_seq_len: int) -> TokenStatistics:
    """Return the statistics of the rows for this `max_seq_len`."""
    refused = [row for row in rows if row.problem]
    sound = [row for row in rows if not row.problem]
    lengths = sorted(row.tokens for row in sound) or [0]
    total = sum(lengths)
    supervised = sum(row.supervised_within(row.tokens) for row in sound)
    kept = [row.supervised_within(max_seq_len) for row in sound]
    silent = [row.number for row, tokens in zip(sound, kept, strict=True) if not tokens]
    return TokenStatistics(
        max_seq_len=max_seq_len,
        row_count=row_count,
        measured_rows=len(rows),
        median_tokens=lengths[len(lengths) // 2],
        longest_tokens=lengths[-1],
        histogram=_histogram(lengths) if sound else [],
        truncated_rows=sum(tokens > max_seq_len for tokens in lengths),
        lost_token_share=sum(max(0, tokens - max_seq_len) for tokens in lengths) / max(1, total),
        lost_supervised_share=1 - sum(kept) / supervised if supervised else 0.0,
        supervised_per_row=sum(kept) / max(1, len(sound)),
        silent_count=len(silent),
        silent_rows=silent[:NAMED_ROWS],
        refused_count=len(refused),
        refused_rows=[row.number for row in refused[:NAMED_ROWS]],
        refusal=refused[0].problem if refused else None,
    )


def _measured(template: ChatTemplate, number: int, row: Row) -> MeasuredRow:
    try:
        encoded = encode_row(template, row)
    except UnrenderableRow as refused:
        return MeasuredRow(number, 0, (), str(refused))
    spans = []
    position = 0
    for counts, run in groupby(encoded.supervised):
        length = sum(1 for _ in run)
        if counts:
            spans.append((position, position + length))
        position += length
    return MeasuredRow(number, len(encoded.input_ids), tuple(spans))


def _histogram(lengths: Sequence[int]) -> list[Bar]:
    """Return at most 24 bars of equal width, a power of two."""
    width = 1
    while lengths[-1] // width >= _MAX_BARS:
        width *= 2
    counts = [0] * (lengths[-1] // width + 1)
    for length in lengths:
        counts[length // width] += 1
    return [Bar(from_tokens=i * width, to_tokens=(i + 1) * width - 1, rows=rows) for i, rows in enumerate(counts)]
