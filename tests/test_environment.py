"""Environment variables with values that cannot be used stop the start, and say what would be right."""

from __future__ import annotations

import pytest

from finetune_hub import environment


@pytest.mark.parametrize("value", ["", "often", "0/minute", "10/week", "10/minute "])
def test_a_rate_is_a_number_and_a_time(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("RATE", value)
    with pytest.raises(environment.InvalidEnvironment, match="Use 3000/minute"):
        environment.rate("RATE", "3000/minute")


def test_a_rate_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment.rate("RATE", "3000/minute") == "3000/minute"
    monkeypatch.setenv("RATE", "10/second")
    assert environment.rate("RATE", "3000/minute") == "10/second"
