"""Finished runs correct the estimate: more of them more, the nearest first, and the words say how sure it is."""

from __future__ import annotations

import pytest

from finetune_hub.scheduling.devices import device_named
from finetune_hub.scheduling.fitting import plan_on
from finetune_hub.scheduling.learning import FinishedRun, learn_memory, learn_speed
from finetune_hub.scheduling.workload import Rows
from tests.scheduling.shapes import LLAMAS, spec

SIZE = 15e9
HERE, ELSEWHERE = device_named("RTX 4090"), device_named("H100")


def finished(ratio: float, *, method: str = "lora", device: str = HERE.name, time: float | None = None) -> FinishedRun:
    return FinishedRun("cuda", device, method, SIZE, ratio, time)


def test_without_runs_nothing_is_corrected_and_it_says_so() -> None:
    learnt = learn_memory([], HERE, "lora", SIZE)
    assert (learnt.factor, learnt.runs) == (1.0, 0)
    assert "formulas alone" in learnt.sureness("Memory")


def test_more_runs_pull_harder_and_are_surer() -> None:
    few, many = (learn_memory([finished(1.3)] * count, HERE, "lora", SIZE) for count in (1, 20))
    assert 1.0 < few.factor < many.factor < 1.3
    assert many.spread < few.spread
    assert "not yet sure" in few.sureness("Memory")
    assert ": sure" in many.sureness("Memory")


def test_one_wild_run_changes_little() -> None:
    tame = [finished(1.05)] * 9
    assert learn_memory([*tame, finished(9.0)], HERE, "lora", SIZE).factor == pytest.approx(
        learn_memory(tame, HERE, "lora", SIZE).factor, rel=0.01
    )


def test_a_run_that_cannot_be_what_was_estimated_teaches_nothing_about_memory() -> None:
    assert learn_memory([finished(0.01)] * 3, HERE, "lora", SIZE).runs == 0


def test_the_nearest_runs_count() -> None:
    runs = [finished(2.0, device=ELSEWHERE.name), finished(1.5, method="qlora"), finished(1.2)]
    assert learn_memory(runs, HERE, "lora", SIZE).scope == "of lora on this device"
    assert learn_memory(runs[:2], HERE, "lora", SIZE).scope == "on this device"
    assert learn_memory(runs[:1], HERE, "lora", SIZE).scope == "on a GPU"
    assert learn_memory(runs, device_named("cpu 16GB"), "lora", SIZE).runs == 0


def test_runs_of_another_size_teach_nothing_about_memory() -> None:
    runs = [finished(3.0, time=2.0)] * 9
    assert learn_memory(runs, HERE, "lora", 10 * SIZE).factor == 1.0
    assert learn_memory(runs, HERE, "lora", 2 * SIZE).factor > 2
    assert learn_speed(runs, HERE, "lora").runs == 9


def test_runs_whose_speed_was_not_foretold_teach_memory_alone() -> None:
    assert learn_memory([finished(1.2)], HERE, "lora", SIZE).runs == 1
    assert learn_speed([finished(1.2)], HERE, "lora").runs == 0
    assert learn_speed([finished(1.2, time=3.0)], HERE, "lora").factor > 2


def test_a_plan_is_corrected_and_its_parts_still_add_up() -> None:
    before = plan_on(spec(), LLAMAS["7B"], HERE, Rows(100))
    for ratio in (1.4, 0.9, 0.5):
        after = plan_on(spec(), LLAMAS["7B"], HERE, Rows(100), [finished(ratio, time=2.0)] * 50)
        assert after.memory.peak_bytes == pytest.approx(before.memory.peak_bytes * after.memory_correction.factor)
        assert sum(after.memory.parts().values()) == pytest.approx(after.memory.peak_bytes)
        assert min(after.memory.parts().values()) >= 0
        assert before.total_seconds is not None
        assert after.total_seconds == pytest.approx(before.total_seconds * 2, rel=0.05)
