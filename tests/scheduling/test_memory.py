"""The estimate's parts: what the engine really saves for the backward pass, and what makes a run larger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_hub.scheduling.devices import device_named
from finetune_hub.scheduling.facts import read_facts
from finetune_hub.scheduling.memory import MemoryEstimate, estimate_memory, head_rows, saved_bytes
from finetune_hub.scheduling.workload import Rows, Workload, workload_of
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.shape import Shape
from finetune_hub.spec.training import TrainingSpec
from tests.scheduling.shapes import LLAMAS, spec
from tests.tiny_models import make_tiny_model

GPU, CPU = device_named("A100 80GB"), device_named("cpu 16GB")
METHODS: list[dict[str, Any]] = [
    {"type": "lora", "rank": 8},
    {"type": "lora", "rank": 8, "dropout": 0.1},
    {"type": "lora", "rank": 8, "use_dora": True},
    {"type": "lora", "rank": 4, "target_modules": ["q_proj", "v_proj"]},
    {"type": "lora", "rank": 4, "target_modules": ["v_proj", "down_proj"], "rank_pattern": {"down_proj": 12}},
    {"type": "prompt_tuning", "virtual_tokens": 8},
    {"type": "prefix_tuning", "virtual_tokens": 8, "prefix_projection": True},
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"), layers=4)


def spec_of(method: dict[str, Any]) -> TrainingSpec:
    document = {"base_model": "tiny", "datasets": [{"name": "rows"}], "method": method}
    return TrainingSpec.model_validate(document | {"training": {"micro_batch_size": 2, "max_seq_len": 96}})


@pytest.mark.needs_torch
@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(map(str, method.values())))
def test_counts_what_the_engine_saves_and_trains(base: Path, method: dict[str, Any]) -> None:
    """Within a tenth: norms' scales, positions and the head's own are left out of the formula."""
    asked, shape = spec_of(method), Shape(read_facts(base))
    saved, trained = measure_saved(base, asked)
    load = workload_of(asked, Rows(2, [96, 96]))
    assert asked.method.trained_parameters(shape) == trained
    if method["type"] != "prefix_tuning":  # torch's fused attention keeps more than one output on a CPU.
        assert saved_bytes(asked, shape, load, CPU) == pytest.approx(saved, rel=0.1)


def measure_saved(base: Path, asked: TrainingSpec) -> tuple[int, int]:
    """Bytes that one forward pass of the engine keeps, weights left out, and the numbers that it trains."""
    import torch

    from finetune_hub.engine.dataset import Batch, TokenRow
    from finetune_hub.engine.fast import fast_modules
    from finetune_hub.engine.methods import attach_method
    from finetune_hub.engine.model import load_base_model, prove_fast_paths
    from finetune_hub.engine.objectives.objective import token_losses

    model = load_base_model(base, dtype=torch.float32, device="cpu")
    adapter = attach_method(model, asked.method)
    paths = prove_fast_paths(model)
    fast_modules.install(model)
    model.train()
    parameters = {
        tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *adapter.parameters().values()]
    }
    storages: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage
        return tensor

    row = TokenRow("row", torch.arange(96, dtype=torch.int32), torch.tensor([94], dtype=torch.int32), 0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_losses(model, paths, Batch.of([row, row])).sum()
    saved = sum(storage.nbytes() for storage in storages.values())
    return saved, sum(parameter.numel() for parameter in adapter.parameters().values())


@pytest.mark.needs_torch
@pytest.mark.parametrize("vocabulary", [256, 49_152, 128_256, 256_000, 1_000_000])
def test_knows_the_heads_chunks(vocabulary: int) -> None:
    from finetune_hub.engine.kernels.linear_cross_entropy import chunk_size

    most = head_rows(vocabulary)
    assert chunk_size(most, vocabulary) == most
    assert chunk_size(most + 1, vocabulary) < most


@pytest.mark.needs_torch
def test_reads_the_facts_that_an_import_reads(base: Path) -> None:
    from finetune_hub.engine.import_model import read_facts as engines

    expected, _ = engines(base)
    assert read_facts(base) == expected.model_copy(update={"chat_template_sha256": None})
    with pytest.raises(Refusal, match=r"config\.json"):
        read_facts(base / "nothing")


def estimate(asked: TrainingSpec, model: str = "7B") -> MemoryEstimate:
    return estimate_memory(asked, LLAMAS[model], GPU, workload_of(asked, Rows(1000)))


def test_every_model_of_the_papers_adds_up() -> None:
    assert all(shape.is_understood and shape.is_gated for shape in LLAMAS.values())


def test_each_saving_saves_in_its_own_part() -> None:
    full = estimate(spec(micro_batch_size=4, runtime={}))
    assert estimate(spec(micro_batch_size=4)).activations < full.activations / 4
    assert estimate(spec(micro_batch_size=4, runtime={}, optimizer="adamw_8bit")).optimizer < full.optimizer / 3
    assert estimate(spec("qlora", micro_batch_size=4, runtime={})).weights < full.weights / 3
    assert estimate(spec(micro_batch_size=4, runtime={}, rank=8)).adapters == pytest.approx(full.adapters / 2)
    assert estimate(spec(micro_batch_size=1, runtime={})).activations == pytest.approx(full.activations / 4, rel=0.01)
    assert estimate(spec(micro_batch_size=4, runtime={"dtype": "float32"})).weights == 2 * full.weights


def test_an_optimizer_step_of_many_micro_batches_needs_no_more() -> None:
    one, many = (estimate(spec(gradient_accumulation_steps=count)) for count in (1, 64))
    assert one == many


def test_ragged_rows_are_not_all_taken_for_the_longest() -> None:
    asked = spec(micro_batch_size=16, max_seq_len=2048, runtime={})
    load = workload_of(asked, Rows(1000, lengths=[*range(50, 450), 2048]))
    assert 16 * 250 < load.micro_batch_tokens < 16 * 450
    assert load.longest_row == 2048
    assert workload_of(asked, Rows(1000, lengths=[100] * 16)).micro_batch_tokens == 1600


def test_steps_and_tokens_follow_the_data() -> None:
    load: Workload = workload_of(
        spec(epochs=3, micro_batch_size=4, gradient_accumulation_steps=2), Rows(100, [10] * 100)
    )
    assert (load.steps, load.tokens) == (38, 38 * 80)
    assert workload_of(spec(max_steps=5), Rows(100)).steps == 5
