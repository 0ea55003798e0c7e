"""What may be switched on in training keeps the loop's promises: evaluation, noise, checkpointing, ranks, 8 bits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from finetune_hub.engine.errors import BadConfig, BadData
from finetune_hub.engine.objectives.neftune import noisy_embeddings
from finetune_hub.engine.train import optimizers
from finetune_hub.engine.train.loss_scale import LossScale
from finetune_hub.spec.events import EXIT_SUCCEEDED
from finetune_hub.spec.run import TrainRun
from finetune_hub.spec.training import TrainingOptions, TrainingSpec
from tests.engine.conftest import MakeRun, adapter_bytes, events_of, train


def with_parts(run: TrainRun, **parts: dict[str, Any]) -> TrainRun:
    """The run with keys of `evaluation` or `runtime` changed."""
    document = run.spec.model_dump()
    for part, changes in parts.items():
        document[part] |= changes
    return run.model_copy(update={"spec": TrainingSpec.model_validate(document)})


def weights_of(run: TrainRun) -> dict[str, torch.Tensor]:
    return load_file(run.output_dir / "adapter" / "adapter_model.safetensors")


def test_evaluation_holds_rows_out_and_changes_nothing_else(make_run: MakeRun, tmp_path: Path) -> None:
    evaluation = {"fraction": 0.25, "every_steps": 2, "samples": 2, "sample_tokens": 4, "keep_best": False}
    often = with_parts(make_run(epochs=1, run={"output_dir": tmp_path / "often"}), evaluation=evaluation)
    rarely = with_parts(
        make_run(epochs=1, run={"output_dir": tmp_path / "rarely"}), evaluation=evaluation | {"every_steps": 99}
    )
    result = train(often)
    train(rarely)

    (plan,) = events_of(often.output_dir, "plan")
    assert (plan.rows, plan.held_out_rows) == (9, 3)
    evaluations = events_of(often.output_dir, "evaluation")
    assert [event.step for event in evaluations] == [2, 4, 5]
    assert result.evaluation_loss == evaluations[-1].loss == events_of(rarely.output_dir, "evaluation")[0].loss
    assert adapter_bytes(often.output_dir) == adapter_bytes(rarely.output_dir)
    sample = evaluations[0].samples[0]
    assert sample.prompt.endswith("\nassistant\n")
    words = sample.prompt.partition("Reverse: ")[2].splitlines()[0].split()
    assert sample.expected.split() == words[::-1]


def test_the_best_weights_are_published_and_training_stops_early(make_run: MakeRun, tmp_path: Path) -> None:
    options = {"epochs": 30, "learning_rate": 0.3, "warmup_ratio": 0}  # So high that the held-out loss soon rises.
    evaluation = {"fraction": 0.25, "every_steps": 1, "early_stopping_patience": 2}
    run = with_parts(make_run(**options), evaluation=evaluation)
    result = train(run)

    losses = [event.loss for event in events_of(run.output_dir, "evaluation")]
    best = losses.index(min(losses)) + 1
    assert (result.published_step, result.steps, result.evaluation_loss) == (best, best + 2, min(losses))
    until_best = with_parts(
        make_run(**options | {"max_steps": best}, run={"output_dir": tmp_path / "until"}), evaluation=evaluation
    )
    train(until_best)
    assert adapter_bytes(run.output_dir) == adapter_bytes(until_best.output_dir)


def test_too_few_rows_to_hold_any_out_is_told(make_run: MakeRun, tmp_path: Path) -> None:
    rows = tmp_path / "one.jsonl"
    message = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows.write_text(json.dumps(message) + "\n")
    with pytest.raises(BadData, match="too small to hold out rows"):
        train(with_parts(make_run(rows=rows), evaluation={"fraction": 0.5}))


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_resuming_with_everything_on_is_exact(make_run: MakeRun, tmp_path: Path, optimizer: str) -> None:
    options = {
        "epochs": 2,
        "checkpoint_every_steps": 6,
        "neftune_alpha": 5,
        "label_smoothing": 0.1,
        "weight_decay": 0.1,
        "optimizer": optimizer,
        "method": {"rank": 64, "dropout": 0.2},  # bitsandbytes keeps small tensors in 32 bits.
    }
    evaluation = {"fraction": 0.2, "every_steps": 3}
    whole = with_parts(make_run(**options, run={"output_dir": tmp_path / "whole"}), evaluation=evaluation)
    expected = train(whole)
    half = {"output_dir": tmp_path / "half", "resume_from": whole.output_dir / "checkpoints" / "step-6"}
    resumed = with_parts(make_run(**options, run=half), evaluation=evaluation)
    assert train(resumed) == expected
    assert adapter_bytes(resumed.output_dir) == adapter_bytes(whole.output_dir)
    later = [(event.step, event.loss, event.is_best) for event in events_of(whole.output_dir, "evaluation")][2:]
    assert [(event.step, event.loss, event.is_best) for event in events_of(resumed.output_dir, "evaluation")] == later


@pytest.mark.parametrize(
    "change", [{"runtime": {"activation_checkpointing": True}}, {"training": {"packing": False}}], ids=str
)
def test_checkpointed_or_unpacked_gives_the_same(make_run: MakeRun, tmp_path: Path, change: dict[str, Any]) -> None:
    options = {"max_steps": 3, "method": {"dropout": 0.0}}
    plain = make_run(**options, run={"output_dir": tmp_path / "plain"})
    changed = with_parts(make_run(**options, run={"output_dir": tmp_path / "changed"}), **change)
    train(plain)
    train(changed)
    torch.testing.assert_close(weights_of(changed), weights_of(plain), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shard_base_model", [False, True])
def test_two_ranks_equal_one(make_run: MakeRun, tmp_path: Path, shard_base_model: bool) -> None:
    options = {"max_steps": 3, "micro_batch_size": 2, "gradient_accumulation_steps": 3}
    single = make_run(**options, run={"output_dir": tmp_path / "single", "threads": 1})
    double = make_run(**options, run={"output_dir": tmp_path / "double", "threads": 1})
    double = with_parts(
        double,
        runtime={"gpus": 2, "shard_base_model": shard_base_model},
        evaluation={"fraction": 0.2, "keep_best": False, "samples": 1},
    )
    single = with_parts(single, evaluation={"fraction": 0.2, "keep_best": False})
    train(single)
    document = tmp_path / "run.json"
    document.write_text(double.model_dump_json())
    command = [sys.executable, "-m", "finetune_hub.engine", "train", str(document)]
    assert subprocess.run(command, check=False, timeout=300).returncode == EXIT_SUCCEEDED

    torch.testing.assert_close(weights_of(double), weights_of(single), rtol=1e-3, atol=1e-4)
    for kind in ("step", "evaluation"):
        losses = [[event.loss for event in events_of(run.output_dir, kind)] for run in (single, double)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert not (double.output_dir / "rank-1" / "adapter").exists()
    spread = [event.message for event in events_of(double.output_dir, "log") if "sharded" in event.message]
    if shard_base_model:
        layers = AutoModelForCausalLM.from_pretrained(double.base_model_dir).base_model.layers
        assert f"{sum(weight.nbytes for weight in layers.parameters()) // 2:,} bytes" in spread[0]


def test_float16_repeats_a_step_that_overflows(make_run: MakeRun) -> None:
    run = with_parts(make_run(max_steps=3), runtime={"dtype": "float16"})
    train(run)
    losses = [event.loss for event in events_of(run.output_dir, "step")]
    assert losses[-1] < losses[0]

    scale = LossScale(torch.float16, value=4.0)
    gradient = torch.full((3,), 8.0)
    scale.unscale([gradient])
    assert gradient.tolist() == [2.0] * 3
    assert [scale.halve(), scale.halve(), scale.halve(), scale.value] == [True, True, False, 1.0]
    assert not LossScale(torch.float32).halve()


def test_noise_is_as_strong_as_the_paper_says(base_model_dir: Path) -> None:
    from finetune_hub.engine.model import load_base_model

    model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
    embeddings, ids = model.get_input_embeddings(), torch.arange(40)[None]
    with noisy_embeddings(model, 5.0, (10, 30)):
        assert torch.equal(embeddings(ids), embeddings.weight[ids])  # Not while evaluating.
    model.train()
    with noisy_embeddings(model, 5.0, (10, 30)):
        noise = (embeddings(ids) - embeddings.weight[ids])[0].abs()
    for part, length in ((noise[:10], 10), (noise[10:], 30)):
        bound = 5.0 / (length * 64) ** 0.5
        assert 0.9 * bound < part.max() <= bound * 1.001
    assert torch.equal(embeddings(ids), embeddings.weight[ids])


def test_what_needs_a_gpu_is_told(make_run: MakeRun) -> None:
    with pytest.raises(BadConfig, match="paged optimizer needs a CUDA GPU"):
        optimizers.build([], TrainingOptions(optimizer="paged_adamw_8bit"), "cpu")
    with pytest.raises(BadConfig, match="activation_offload"):
        train(with_parts(make_run(), runtime={"activation_offload": True}))
