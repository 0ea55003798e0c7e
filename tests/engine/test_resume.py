"""Interrupted and resumed equals uninterrupted, bit for bit, for every method: losses, weights and result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_hub.spec.methods.registry import METHODS
from finetune_hub.spec.run import TrainRun
from tests.engine.conftest import MakeRun, adapter_bytes, events_of, train
from tests.engine.interruptions import interrupt
from tests.engine.test_lora_variants import VARIANTS as LORA
from tests.engine.test_lora_variants import make_mixture
from tests.engine.test_quantized import KINDS
from tests.engine.test_training_options import with_parts
from tests.engine.test_verify import check
from tests.engine.test_virtual_tokens import VARIANTS as VIRTUAL_TOKENS
from tests.tiny_models import make_tokenizer

DROPOUT = {"rank": 4, "dropout": 0.1, "learning_rate_ratio": 4.0}
EVERY_METHOD: dict[str, dict[str, Any]] = {
    **{f"lora-{name}": {"type": "lora", **DROPOUT, **options} for name, options in LORA.items()},
    "lora-embedding": {"type": "lora", "rank": 4, **LORA["embedding"]},  # Embeddings know no dropout.
    "lora-experts": {"type": "lora", "rank": 2, "target_parameters": ["gate_up_proj", "down_proj"]},
    **{f"qlora-{kind}": {"type": "qlora", "quantization": kind, **DROPOUT} for kind in KINDS},
    "qlora-dora": {"type": "qlora", "use_dora": True, **DROPOUT},
    **{f"tokens-{name}": {"virtual_tokens": 5, **options} for name, options in VIRTUAL_TOKENS.items()},
}


def losses(run: TrainRun) -> list[tuple[int, float, float]]:
    return [(step.step, step.loss, step.grad_norm) for step in events_of(run.output_dir, "step")]


def test_every_method_is_here() -> None:
    assert {options["type"] for options in EVERY_METHOD.values()} == set(METHODS)


@pytest.mark.parametrize("name", EVERY_METHOD)
def test_interrupted_equals_uninterrupted(make_run: MakeRun, tmp_path: Path, name: str) -> None:
    method = METHODS[EVERY_METHOD[name]["type"]].model_validate(EVERY_METHOD[name])
    base = {}
    if name == "lora-experts":
        base["base_model_dir"] = make_mixture(tmp_path / "mixture")
        make_tokenizer(base["base_model_dir"])

    def run(output: str) -> TrainRun:
        made = make_run(max_steps=6, schedule="cosine", warmup_ratio=0.4, run={"output_dir": tmp_path / output, **base})
        made = with_parts(made, evaluation={"fraction": 0.2, "every_steps": 2})
        return made.model_copy(update={"spec": made.spec.model_copy(update={"method": method})})

    whole, parts = run("whole"), run("parts")
    expected = train(whole)
    parts = interrupt(parts, 1)  # Before the first evaluation,
    parts = interrupt(parts, 4)  # and when there are best weights to keep.
    assert train(parts) == expected
    assert losses(parts) == losses(whole)
    assert adapter_bytes(parts.output_dir) == adapter_bytes(whole.output_dir)
    result = check(parts)
    assert result.changes_something
    assert result.max_difference <= result.tolerance


def test_a_run_goes_on_in_smaller_micro_batches(make_run: MakeRun) -> None:
    """What a job does that was out of memory: the same rows in each step, so the same curve but for rounding."""
    run = make_run(max_steps=6, micro_batch_size=4)
    whole = make_run(max_steps=6, micro_batch_size=4, run={"output_dir": run.output_dir.with_name("whole")})
    train(whole)
    smaller = {"micro_batch_size": 1, "gradient_accumulation_steps": 4}
    spec = interrupt(run, 3).spec
    spec = spec.model_copy(update={"training": spec.training.model_copy(update=smaller)})
    resumed = run.model_copy(update={"spec": spec, "resume_from": run.output_dir / "checkpoints" / "step-3"})
    train(with_parts(resumed, runtime={"activation_checkpointing": True}))
    assert [loss for _, loss, _ in losses(run)] == pytest.approx([loss for _, loss, _ in losses(whole)], rel=1e-3)


@pytest.mark.parametrize("stops_early", [False, True])
def test_a_run_stopped_after_its_last_step_goes_straight_on_to_its_end(
    make_run: MakeRun, tmp_path: Path, stops_early: bool
) -> None:
    """A pause, a drain or a lost lease while the adapter is verified costs no step and no evaluation."""
    options = {"learning_rate": 0.3, "warmup_ratio": 0, "epochs": 30} if stops_early else {"max_steps": 5}
    patience = 2 if stops_early else None
    evaluation = {"fraction": 0.25, "every_steps": 1 if stops_early else 3, "early_stopping_patience": patience}
    whole, again = (
        with_parts(make_run(**options, run={"output_dir": tmp_path / name}), evaluation=evaluation)
        for name in ("whole", "again")
    )
    expected = train(whole)
    last = whole.output_dir / "checkpoints" / f"step-{expected.steps}"
    assert (expected.stopped_by == "early_stopping") is stops_early
    assert train(again.model_copy(update={"resume_from": last})) == expected
    assert (losses(again), events_of(again.output_dir, "evaluation")) == ([], [])
    assert adapter_bytes(again.output_dir) == adapter_bytes(whole.output_dir)


# ---- maximum duration


def test_a_run_ends_at_its_maximum_duration_and_publishes(make_run: MakeRun) -> None:
    run = with_parts(
        make_run(epochs=100), runtime={"max_duration": "1h"}, evaluation={"fraction": 0.25, "every_steps": 1000}
    )
    result = train(run.model_copy(update={"seconds_left": 0.0}))
    assert (result.steps, result.stopped_by) == (1, "max_duration")
    assert [event.step for event in events_of(run.output_dir, "evaluation")] == [1]
    [said] = [event for event in events_of(run.output_dir, "log") if event.level == "warn"]
    assert said.message == "Stopping at step 1 of 450: the maximum duration of 1h has been reached."
    assert check(run).changes_something


def test_a_run_that_has_the_time_takes_all_its_steps(make_run: MakeRun) -> None:
    result = train(with_parts(make_run(max_steps=2), runtime={"max_duration": "1h"}))
    assert (result.steps, result.stopped_by) == (2, None)
