"""Each method and objective learns as it did: the same curves within 1e-4 on any processor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.__main__ import RECORDED
from tests.golden.runs import CURVES, train_curve

WITHIN = 1e-4
LOOSER = {"grad_norm": 1e-3, "reward_accuracy": 0.5}  # Of four pairs, one on the edge may fall on either side.


def test_every_curve_is_recorded() -> None:
    assert list(json.loads(RECORDED.read_text())) == CURVES


@pytest.mark.parametrize("name", CURVES)
def test_the_curve_is_the_recorded_one(name: str, tmp_path: Path) -> None:
    recorded, curve = json.loads(RECORDED.read_text())[name], train_curve(name, tmp_path)
    assert curve.keys() == recorded.keys()
    for measure, values in curve.items():
        within = LOOSER.get(measure, WITHIN)
        assert values == pytest.approx(recorded[measure], abs=within, rel=within), measure
