"""Does it fit? The field's known claims, and what is offered where it does not. A failure shows the numbers."""

from __future__ import annotations

import pytest

from finetune_hub.scheduling.changes import changed
from finetune_hub.scheduling.devices import GIB, PlannedDevice, device_named, device_of
from finetune_hub.scheduling.fitting import DevicePlan, plan_on
from finetune_hub.scheduling.workload import Rows
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingSpec
from tests.scheduling.shapes import LLAMAS, spec

ROWS = Rows(9846)  # OASST1's, all taken to be max_seq_len long.


def plan(model: str, device: str, asked: TrainingSpec) -> DevicePlan:
    return plan_on(asked, LLAMAS[model], device_named(device), ROWS)


def shown(planned: DevicePlan) -> str:
    parts = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in planned.memory.parts().items())
    return f"{planned.sentence()} In GB: {parts}."


@pytest.mark.parametrize(
    ("model", "method", "device"),
    [
        ("7B", "lora", "RTX 4090"),
        ("7B", "lora", "RTX 3090"),
        ("13B", "qlora", "RTX 4090"),
        ("33B", "qlora", "RTX 4090"),  # At rank 16; at 64 see below.
        ("65B", "qlora", "L40S"),  # QLoRA, abstract: 65B on a single 48 GB card.
        ("70B", "qlora", "A100 80GB"),
        ("70B", "qlora", "H100"),
    ],
)
def test_fits_what_the_field_knows_to_fit(model: str, method: str, device: str) -> None:
    planned = plan(model, device, spec(method))
    assert planned.verdict == "fits", shown(planned)
    assert planned.alternatives == ()


@pytest.mark.parametrize(("model", "gigabytes"), [("7B", 6.9), ("13B", 11.3), ("33B", 24.7), ("65B", 45.0)])
def test_needs_what_the_qlora_paper_says(model: str, gigabytes: float) -> None:
    """arXiv:2305.14314, figure 8: rank 64 on all linear layers, one row of 512 tokens. Its adapters are in 16 bits."""
    planned = plan(model, "H200", spec("qlora", rank=64))
    assert planned.memory.peak_bytes / 1e9 == pytest.approx(gigabytes, rel=0.1), shown(planned)


def test_33b_at_rank_64_does_not_quite_fit_24_gb() -> None:
    """arXiv:2305.14314, under figure 8: it needs paged averages there."""
    planned = plan("33B", "RTX 4090", spec("qlora", rank=64))
    assert planned.verdict != "fits", shown(planned)


def test_refuses_13b_lora_on_24_gb_and_offers_4_bits() -> None:
    planned = plan("13B", "RTX 4090", spec("lora"))
    assert planned.verdict == "does_not_fit", shown(planned)
    assert planned.memory.weights / 1e9 == pytest.approx(26.0, abs=0.1), shown(planned)
    assert "weights alone take 26.0 GB" in planned.sentence()
    first = planned.alternatives[0]
    assert first.changes == {"method.type": "qlora"}
    assert plan("13B", "RTX 4090", changed(spec("lora"), first.changes)).verdict == "fits"


def test_offers_what_costs_nothing_but_time_first() -> None:
    asked = spec(micro_batch_size=8, gradient_accumulation_steps=2, max_seq_len=2048, runtime={})
    planned = plan("7B", "RTX 4090", asked)
    assert planned.verdict == "does_not_fit", shown(planned)
    first, *others = planned.alternatives
    assert first.quality == "none: the same numbers"
    assert first.changes.keys() <= {
        "runtime.activation_checkpointing",
        "training.micro_batch_size",
        "training.gradient_accumulation_steps",
    }
    assert others, "other alternatives cost quality, and save time for it"
    times = [other.slowdown for other in planned.alternatives if other.slowdown]
    assert times == sorted(times, reverse=True)


def test_every_alternative_fits_and_keeps_the_global_batch() -> None:
    asked = spec(micro_batch_size=16, gradient_accumulation_steps=3, max_seq_len=4096, runtime={})
    for model, device in [("7B", "L4"), ("13B", "A100 40GB"), ("33B", "L40S"), ("70B", "A100 80GB")]:
        planned = plan(model, device, asked)
        assert planned.alternatives, shown(planned)
        for alternative in planned.alternatives:
            candidate = changed(asked, alternative.changes)
            assert plan(model, device, candidate).verdict == "fits", alternative
            assert candidate.training.micro_batch_size * candidate.training.gradient_accumulation_steps >= 48


def test_offers_nothing_where_nothing_helps() -> None:
    assert plan("70B", "RTX 4090", spec("qlora")).alternatives == ()


def test_says_how_many_tokens_a_shorter_row_costs() -> None:
    rows = Rows(1000, lengths=[100] * 90 + [2000] * 10)
    asked = spec("qlora", micro_batch_size=4, gradient_accumulation_steps=1, max_seq_len=4096)
    small = PlannedDevice("cuda", "small", 6 * GIB, 1e14, 1e13, 1e12)
    assert rows.share_lost(1024) == pytest.approx(10 * 976 / 29000)
    shorter = [
        (option, option.changes["training.max_seq_len"])
        for option in plan_on(asked, LLAMAS["7B"], small, rows).alternatives
        if "training.max_seq_len" in option.changes
    ]
    assert shorter
    assert all(
        f"{100 * (rows.share_lost(length) or 0):.1f}% of the tokens" in option.quality for option, length in shorter
    )


@pytest.mark.parametrize(
    ("reported", "gigabytes", "known"),
    [
        ("NVIDIA A100-SXM4-80GB", 80, "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", 40, "A100 40GB"),
        ("NVIDIA GeForce RTX 4090", 24, "RTX 4090"),
        ("NVIDIA L4", 24, "L4"),
        ("NVIDIA L40S", 48, "L40S"),
        ("NVIDIA H100 80GB HBM3", 80, "H100"),
    ],
)
def test_knows_gpus_by_what_their_driver_calls_them(reported: str, gigabytes: int, known: str) -> None:
    assert device_of("cuda", reported, gigabytes * GIB).half_flops == device_named(known).half_flops


def test_plans_memory_without_speed_on_a_gpu_that_nobody_measured() -> None:
    planned = plan_on(spec(), LLAMAS["7B"], device_of("cuda", "Some GPU", 24 * GIB), ROWS)
    assert planned.verdict == "fits"
    assert planned.total_seconds is None


def test_refuses_a_device_that_is_none() -> None:
    with pytest.raises(Refusal, match="RTX 4090"):
        device_named("abacus")
