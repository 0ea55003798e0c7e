"""What an objective measures of each step beside its loss. Each measure is declared here, once.

The step's event, the database, the API, the page with its chart, and the terminal show whatever is declared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A number that is told of every step."""

    name: str
    """Its key in events, in the database and over the API."""
    label: str
    """What a page calls it."""
    word: str
    """What a line in a terminal calls it."""
    unit: Literal["nats", "share"]
    """A share is shown in percent."""
    better: Literal["higher", "lower"]
    is_drawn: bool
    """On an axis of its own, at the right of the loss; else the chart tells its number alone."""
    description: str

    def in_words(self, value: float) -> str:
        """`margin 0.250`, `accuracy 88%`."""
        return f"{self.word} {value:.0%}" if self.unit == "share" else f"{self.word} {value:.3f}"


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            name="reward_margin",
            label="Reward margin",
            word="margin",
            unit="nats",
            better="higher",
            is_drawn=True,
            description="DPO: beta times how much likelier, in nats, the better answers became than the worse ones.",
        ),
        Measure(
            name="reward_accuracy",
            label="Pairs told apart",
            word="accuracy",
            unit="share",
            better="higher",
            is_drawn=False,
            description="DPO: share of the pairs whose margin is above 0.",
        ),
    )
}
