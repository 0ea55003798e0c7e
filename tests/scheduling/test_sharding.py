"""A base model spread over several GPUs: what each keeps, and when the planner offers it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from finetune_hub.scheduling.changes import changed
from finetune_hub.scheduling.devices import device_named
from finetune_hub.scheduling.fitting import plan_on
from finetune_hub.scheduling.memory import MemoryEstimate, estimate_memory
from finetune_hub.scheduling.workload import Rows, workload_of
from finetune_hub.spec.training import TrainingSpec
from tests.scheduling.shapes import LLAMAS, spec

ROWS = Rows(1000)
SHAPE = LLAMAS["13B"]
RTX = device_named("RTX 4090")


def spread(gpus: int, asked: TrainingSpec | None = None) -> TrainingSpec:
    return changed(asked or spec(), {"runtime.gpus": gpus, "runtime.shard_base_model": gpus > 1})


def memory(asked: TrainingSpec) -> MemoryEstimate:
    return estimate_memory(asked, SHAPE, RTX, workload_of(asked, ROWS))


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_each_gpu_keeps_its_share_of_the_layers_and_the_rest_whole(gpus: int) -> None:
    """`engine.train.sharding` spreads layers, and gathers one ahead; embeddings, head and adapters stay whole."""
    alone, shared = memory(spread(1)), memory(spread(gpus))
    layers = 2 * SHAPE.linear_parameters
    outside = 2 * SHAPE.facts.parameter_count - layers
    assert alone.weights == outside + layers
    assert shared.weights == pytest.approx(outside + layers / gpus + 2 * layers / SHAPE.facts.layers)
    assert (shared.adapters, shared.gradients, shared.optimizer) == (alone.adapters, alone.gradients, alone.optimizer)


def test_packed_weights_are_not_spread() -> None:
    with pytest.raises(ValidationError, match="cannot shard a quantised base model"):
        spread(4, spec("qlora"))


def alternatives(together: int, **changes: Any) -> list[dict[str, Any]]:
    plan = plan_on(changed(spec(), changes), SHAPE, RTX, ROWS, together=together)
    assert plan.verdict == "does_not_fit"
    return [dict(alternative.changes) for alternative in plan.alternatives]


def test_a_machine_with_several_gpus_is_offered_first() -> None:
    """13B in 16 bits is 26 GB: too much for 24 GB, and no loss of quality on two of them."""
    assert not any("runtime.gpus" in changes for changes in alternatives(1))
    first, *_ = alternatives(2)
    assert first == {"runtime.gpus": 2, "runtime.shard_base_model": True}
    assert plan_on(changed(spec(), first), SHAPE, RTX, ROWS).verdict == "fits"
    asked = {"runtime.gpus": 2}
    assert alternatives(2, **asked)[0] == first


@pytest.mark.parametrize(("rank", "beside"), [(16, set()), (64, {"method.rank"})])
def test_four_bits_are_offered_in_the_place_of_spreading(rank: int, beside: set[str]) -> None:
    plan = plan_on(changed(spread(2), {"method.rank": rank}), LLAMAS["33B"], RTX, ROWS)
    packed = [option.changes for option in plan.alternatives if "method.type" in option.changes]
    assert packed
    assert all(changes["runtime.shard_base_model"] is False for changes in packed)
    assert packed[0].keys() >= beside


def test_what_the_engine_refuses_is_not_offered() -> None:
    plan = plan_on(spec(), LLAMAS["65B"], RTX, ROWS, together=4)
    assert not any({"runtime.shard_base_model", "method.type"} <= option.changes.keys() for option in plan.alternatives)
