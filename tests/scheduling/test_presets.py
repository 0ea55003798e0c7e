"""Presets: every value follows from the rows, the model and the device, and says why."""

from __future__ import annotations

import pytest

from finetune_hub.scheduling.devices import GIB, device_named, device_of
from finetune_hub.scheduling.fitting import device_bytes_needed, plan_on, uneven_needs
from finetune_hub.scheduling.presets import PRESETS, Preset, epochs_for, learning_rate_for, length_for, make_preset
from finetune_hub.scheduling.workload import Rows
from finetune_hub.spec.objectives.dpo import DpoObjective
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words
from finetune_hub.spec.training import TrainingSpec
from tests.scheduling.shapes import LLAMAS

ASKED = TrainingSpec.model_validate({"base_model": "llama", "datasets": [{"name": "oasst1"}]})
ROWS = Rows(2000, lengths=[120, 200, 300, 400] * 24 + [900, 3000])


def preset(name: str = "balanced", model: str = "7B", rows: Rows = ROWS, device: str = "A100 80GB") -> Preset:
    return make_preset(name, ASKED, LLAMAS[model], rows, [device_named(device)])


def reason_of(made: Preset, field: str) -> str:
    return next(value.reason for value in made.values if value.field == field)


@pytest.mark.parametrize(("hidden", "rate"), [(576, 1e-3), (2048, 5e-4), (4096, 3e-4), (8192, 2e-4), (20_000, 1e-4)])
def test_wide_models_learn_with_smaller_steps(hidden: int, rate: float) -> None:
    assert learning_rate_for(hidden) == rate


@pytest.mark.parametrize(
    ("rows", "epochs"), [(1, 25), (10, 10), (33, 4), (34, 3), (8_000, 3), (10_000, 2), (25_000, 1), (1_000_000, 1)]
)
def test_few_rows_are_met_more_often(rows: int, epochs: int) -> None:
    assert epochs_for(rows) == epochs


def test_the_length_keeps_the_tokens_and_no_more() -> None:
    rows = Rows(100, lengths=[100] * 90 + [2000] * 10)
    length = length_for(rows, 0.99, 4096)
    assert length == 2048
    assert (rows.share_lost(length) or 0) <= 0.01 < (rows.share_lost(length // 2) or 0)
    assert length_for(rows, 0.99, 1500) == 1500, "no more than the model reads"
    assert length_for(Rows(100), 0.99, 4096) == 1024, "unknown lengths"
    assert length_for(Rows(100, lengths=[10]), 0.99, 4096) == 128


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(("model", "device"), [("7B", "A100 80GB"), ("13B", "RTX 4090"), ("70B", "A100 80GB")])
def test_every_preset_fits_the_device_that_it_is_made_for(name: str, model: str, device: str) -> None:
    """70B on one 24 GB card is what nothing makes fit; there the plan says so."""
    made = preset(name, model, device=device)
    planned_for = PRESETS[name].device or device_named(device)
    verdict = plan_on(made.spec, LLAMAS[model], planned_for, ROWS).verdict
    assert verdict == ("does_not_fit" if (model, planned_for.name) == ("70B", "RTX 4090") else "fits")
    assert all(value.reason for value in made.values)
    fields = [value.field for value in made.values]
    assert len(fields) == len(set(fields))


def test_what_it_takes_to_fit_is_said() -> None:
    made = preset("fits-24gb", "13B")
    assert made.spec.method.type == "qlora"
    assert "does not fit RTX 4090" in reason_of(made, "method.type")
    assert preset("balanced", "13B").spec.method.type == "lora"


def test_micro_batches_are_the_largest_that_fit() -> None:
    made = preset(model="7B", device="RTX 4090")
    options = made.spec.training
    assert options.micro_batch_size * options.gradient_accumulation_steps == 16
    doubled = made.spec.model_copy(
        update={"training": options.model_copy(update={"micro_batch_size": 2 * options.micro_batch_size})}
    )
    assert plan_on(doubled, LLAMAS["7B"], device_named("RTX 4090"), ROWS).verdict != "fits"
    assert "RTX 4090" in reason_of(made, "training.micro_batch_size")
    assert preset(device="H200").spec.training.micro_batch_size == 16


def test_the_smallest_device_that_holds_it_is_planned_for() -> None:
    devices = [device_named(name) for name in ("H200", "L4", "A100 80GB")]
    made = make_preset("balanced", ASKED, LLAMAS["13B"], ROWS, devices)
    assert "A100 80GB" in reason_of(made, "training.micro_batch_size")
    none = make_preset("balanced", ASKED, LLAMAS["13B"], ROWS, [])
    assert "no device" in reason_of(none, "training.micro_batch_size")


def test_small_data_takes_smaller_steps_more_of_them_and_spares_no_rows() -> None:
    made = preset(rows=Rows(60, lengths=[100] * 60))
    options = made.spec.training
    assert 60 * options.epochs / (options.micro_batch_size * options.gradient_accumulation_steps) >= 45
    assert made.spec.evaluation.fraction == 0
    assert preset().spec.evaluation.fraction == 0.05


def test_quick_ends_early_and_best_quality_knows_when_to_stop() -> None:
    quick, best = preset("quick"), preset("best-quality")
    assert (quick.spec.training.max_steps, quick.spec.training.epochs) == (100, 1)
    assert preset("quick", rows=Rows(50, lengths=[100])).spec.training.max_steps is None, "it ends sooner by itself"
    assert best.spec.evaluation.early_stopping_patience == 3
    assert best.spec.training.epochs > preset().spec.training.epochs
    tail = Rows(2000, lengths=[1000] * 99 + [1400])  # 0.4% of the tokens lie beyond 1,024.
    lengths = [preset(name, rows=tail).spec.training.max_seq_len for name in ("balanced", "best-quality")]
    assert lengths == [1024, 2048]


def test_pairs_are_learned_by_dpo_in_small_steps() -> None:
    asked = ASKED.model_copy(update={"objective": DpoObjective()})
    made = make_preset("balanced", asked, LLAMAS["7B"], ROWS, [device_named("A100 80GB")])
    assert isinstance(made.spec.objective, DpoObjective)
    assert made.spec.training.learning_rate == 6e-6
    assert "better and a worse" in reason_of(made, "objective.type")


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(Refusal, match="best-quality"):
        preset("fastest")


def test_a_device_must_have_what_the_largest_need_among_those_that_hold_it_is() -> None:
    """A GPU computes in bfloat16, a CPU in float32, which takes twice the weights."""
    gpu, small, large = device_named("L40S"), device_of("cpu", "cpu", 24 * GIB), device_of("cpu", "cpu", 512 * GIB)
    plans = {name: plan_on(ASKED, LLAMAS["7B"], device, ROWS) for name, device in (("gpu", gpu), ("small", small))}
    assert device_bytes_needed([plans["small"]]) is None
    assert device_bytes_needed([]) is None
    on_gpu, both = device_bytes_needed([plans["gpu"]]), device_bytes_needed(list(plans.values()))
    assert on_gpu is not None
    assert both is not None
    assert plans["gpu"].memory.needed_bytes < on_gpu <= both <= gpu.memory_bytes
    assert both > small.memory_bytes, "the small one is not to be given this run"
    on_both = [plans["gpu"], plan_on(ASKED, LLAMAS["7B"], large, ROWS)]
    roomy = device_bytes_needed(on_both)
    assert roomy is not None
    assert roomy > on_gpu
    said = uneven_needs(on_both)
    assert said is not None
    assert size_in_words(on_gpu) in said
    assert f"waits for a device with the larger amount, {size_in_words(roomy)}" in said
    assert uneven_needs([plans["gpu"], plans["small"]]) is None, "only the GPU holds it"
