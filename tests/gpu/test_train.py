"""On a GPU a run learns what it learns on the CPU, resumes bit for bit, and what only GPUs can do works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.conftest import MakeRun, adapter_bytes, events_of, train
from tests.engine.test_training_options import weights_of, with_parts


def test_a_gpu_learns_what_the_cpu_learns(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(max_steps=4, run={"device": kind, "output_dir": tmp_path / kind}) for kind in ("cpu", "cuda")]
    for run in runs:
        train(run)
    losses = [[event.loss for event in events_of(run.output_dir, "step")] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    torch.testing.assert_close(weights_of(runs[1]), weights_of(runs[0]), rtol=1e-2, atol=1e-3)
    assert events_of(runs[1].output_dir, "step")[-1].peak_memory_bytes > 0


@pytest.mark.parametrize(
    "runtime",
    [
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
        {"dtype": "bfloat16", "activation_checkpointing": True},
        {"dtype": "bfloat16", "activation_offload": True},
        {"dtype": "bfloat16", "compile": True},
    ],
    ids=str,
)
def test_every_runtime_learns(make_run: MakeRun, runtime: dict[str, Any]) -> None:
    run = with_parts(make_run(epochs=4, run={"device": "cuda"}), runtime=runtime)
    train(run)
    losses = [event.loss for event in events_of(run.output_dir, "step")]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "paged_adamw_8bit"])
def test_resuming_on_a_gpu_is_exact(make_run: MakeRun, tmp_path: Path, optimizer: str) -> None:
    options = {
        "max_steps": 6,
        "checkpoint_every_steps": 3,
        "optimizer": optimizer,
        "method": {"rank": 64, "dropout": 0.1},
    }
    whole = make_run(**options, run={"device": "cuda", "output_dir": tmp_path / "whole"})
    train(whole)
    half = {"output_dir": tmp_path / "half", "resume_from": whole.output_dir / "checkpoints" / "step-3"}
    resumed = make_run(**options, run={"device": "cuda"} | half)
    train(resumed)
    assert adapter_bytes(resumed.output_dir) == adapter_bytes(whole.output_dir)
