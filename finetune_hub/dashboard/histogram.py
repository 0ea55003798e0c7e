"""The histogram of a dataset's lengths as the page draws it: bars in an SVG, since the page allows no inline styles."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_hub.data.token_statistics import TokenStatistics

HEIGHT = 100
STEP = 10  # From one bar to the next.


@dataclass(frozen=True, slots=True)
class DrawnBar:
    x: int
    y: float
    height: float
    is_cut: bool  # Its rows are longer than `max_seq_len`, all of them.
    words: str


def draw_bars(lengths: TokenStatistics) -> list[DrawnBar]:
    """Bars as high as they have rows; one that has any can be seen."""
    most = max((bar.rows for bar in lengths.histogram), default=1)
    drawn = []
    for index, bar in enumerate(lengths.histogram):
        height = max(1.5, HEIGHT * bar.rows / most) if bar.rows else 0.0
        words = f"{bar.from_tokens:,} to {bar.to_tokens:,} tokens: {bar.rows:,} rows"
        drawn.append(DrawnBar(index * STEP, HEIGHT - height, height, bar.from_tokens > lengths.max_seq_len, words))
    return drawn
