"""Published files are compared with the trainer, and whatever is wrong with them shows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_hub.engine.verify import UnfaithfulAdapter, verify
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.run import TrainRun, VerifyResult, VerifyRun
from tests.engine.conftest import MakeRun, events_of, train
from tests.tiny_models import make_tiny_model


def check(run: TrainRun, **overrides: object) -> VerifyResult:
    fields = {
        "base_model_dir": run.base_model_dir,
        "adapter_dir": run.output_dir / "adapter",
        "probe_file": run.output_dir / "probe.safetensors",
        "output_dir": run.output_dir.parent / "verify",
    }
    document = VerifyRun(**fields | overrides)
    with EventLog(document.output_dir) as log:
        return verify(document, log)


def change_adapter(run: TrainRun, **factors: float) -> None:
    path = run.output_dir / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({key: tensor * factors.get(key[-13:-7], 1.0) for key, tensor in tensors.items()}, path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_faithful_adapter_passes(make_run: MakeRun, dtype: str) -> None:
    run = make_run(max_steps=3)
    runtime = run.spec.runtime.model_copy(update={"dtype": dtype})
    run = run.model_copy(update={"spec": run.spec.model_copy(update={"runtime": runtime})})
    train(run)
    result = check(run)
    assert result.dtype == dtype
    assert result.max_difference <= result.tolerance
    assert result.changes_something
    assert result.warnings == []
    if dtype == "float32":
        assert result.tolerance == 1e-4


def test_a_changed_adapter_and_another_base_fail(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(max_steps=3)
    train(run)
    with pytest.raises(UnfaithfulAdapter, match="differ from the trainer's by"):
        check(run, base_model_dir=make_tiny_model(tmp_path / "other", seed=9))
    change_adapter(run, lora_B=1.1)
    with pytest.raises(UnfaithfulAdapter, match="differ from the trainer's by"):
        check(run)


def test_an_adapter_that_changes_nothing_gets_a_warning(make_run: MakeRun) -> None:
    run = make_run(max_steps=1, learning_rate=1e-12)
    train(run)
    change_adapter(run, lora_B=0.0)
    result = check(run)
    assert not result.changes_something
    assert "has no effect" in result.warnings[0]
    assert events_of(run.output_dir.parent / "verify", "log")[0].level == "warn"


def test_logits_that_are_not_finite_fail(make_run: MakeRun) -> None:
    run = make_run(max_steps=1)
    train(run)
    path = run.output_dir / "probe.safetensors"
    tensors = load_file(path)
    tensors["logits.0"][0, 0] = torch.inf
    save_file(tensors, path, metadata={"noise": "0.0", "dtype": "float32"})
    with pytest.raises(UnfaithfulAdapter, match="not finite"):
        check(run)
