"""What an objective measures at each step in addition to its loss. Each measure is declared once, here.

The step event, the database, the API, the page with its chart and the terminal read these declarations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Measure:
    """A number that is reported for every step."""

    name: str
    """Its key in events, the database and the API."""
    label: str
    """Its name on a page."""
    word: str
    """Its name in a terminal line."""
    unit: Literal["nats", "share"]
    """A share is shown as a percentage."""
    better: Literal["higher", "lower"]
    is_drawn: bool
    """Whether the chart draws it on its own axis, to the right of the loss, or only shows its number."""
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
            description="DPO: beta times how much more likely, in nats, the better answers became than the worse ones.",
        ),
        Measure(
            name="reward_accuracy",
            label="Pairs ranked correctly",
            word="accuracy",
            unit="share",
            better="higher",
            is_drawn=False,
            description="DPO: share of the pairs whose margin is above 0.",
        ),
    )
}
