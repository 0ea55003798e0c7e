"""docs/python.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from finetune_hub.engine.model import load_base_model
from finetune_hub.spec.methods.registry import METHODS
from tests.tiny_models import make_tiny_model

GUIDE = Path(__file__).parents[2] / "docs" / "python.md"


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    make_tiny_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(GUIDE), "exec"), names)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    losses = [float(line[1]) for line in lines if len(line) == 2 and line[0].isdigit()]
    assert len(losses) == 10
    assert losses[-1] < losses[0] - 0.5
    merged = load_base_model(tmp_path / "merged", dtype=torch.float32, device="cpu")
    with torch.no_grad():
        assert merged(input_ids=names["ids"], labels=names["ids"]).loss < losses[-1] + 0.1
    assert list(names["adapters"].adapters) == ["fox", "half"]


def test_the_guide_tells_each_methods_learning_rate() -> None:
    told = dict(
        re.findall(r"^\| `(\w+Method)` \|.*\| (\S+) \|$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )
    assert {name: float(rate) for name, rate in told.items()} == {
        method.__name__: method.default_learning_rate for method in METHODS.values()
    }
