"""The room that planning asks for on a disk, against the checkpoints that the engine really writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_hub.scheduling.disk import SMALL_FILES_BYTES, checkpoint_bytes
from finetune_hub.scheduling.facts import read_facts
from finetune_hub.spec.shape import Shape
from tests.engine.conftest import MakeRun, train


@pytest.mark.parametrize("method", [{"type": "lora"}, {"type": "lora", "use_dora": True}, {"type": "qlora"}])
def test_a_checkpoint_takes_what_is_asked_for(make_run: MakeRun, method: dict[str, Any]) -> None:
    """Never more, and without the allowance for small files not much less: else jobs are kept out for nothing."""
    run = make_run(max_steps=2, method={"rank": 64} | method)
    train(run)
    [folder] = (run.output_dir / "checkpoints").iterdir()
    written = size_of(folder)
    asked = checkpoint_bytes(run.spec, Shape(read_facts(run.base_model_dir)))
    assert written <= asked
    assert asked - SMALL_FILES_BYTES <= 1.1 * written


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
