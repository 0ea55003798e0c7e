"""Histogram of a dataset's row lengths: bars in an SVG, as the page allows no inline styles."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_hub.data.token_statistics import TokenStatistics

HEIGHT = 100
STEP = 10  # Distance between bars.


@dataclass(frozen=True, slots=True)
class DrawnBar:
    x: int
    y: float
    height: float
    is_cut: bool  # All its rows are longer than `max_seq_len`.
    words: str


def draw_bars(lengths: TokenStatistics) -> list[DrawnBar]:
    """Return bars with heights proportional to their rows. A bar with any row is visible."""
    most = max((bar.rows for bar in lengths.histogram), default=1)
    drawn = []
    for index, bar in enumerate(lengths.histogram):
        height = max(1.5, HEIGHT * bar.rows / most) if bar.rows else 0.0
        words = f"{bar.from_tokens:,} to {bar.to_tokens:,} tokens: {bar.rows:,} rows"
        drawn.append(DrawnBar(index * STEP, HEIGHT - height, height, bar.from_tokens > lengths.max_seq_len, words))
    return drawn
