"""QLoRA: a base in 4 or 8 bits trains, is not written out for keeps, verifies as it was trained, merges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.merge import merge, merge_dense
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.kernels import frozen_weight
from finetune_hub.engine.kernels.frozen_weight import dense, is_quantised
from finetune_hub.engine.model import load_base_model
from finetune_hub.engine.quantization import Quantization, QuantizationKind, quantization_in
from finetune_hub.spec.methods.low_rank import QloraMethod
from finetune_hub.spec.training import TrainingSpec
from tests.engine.conftest import MakeRun, events_of, train
from tests.engine.model_types import write_base
from tests.engine.test_verify import check
from tests.tiny_models import make_tiny_model

IDS = torch.arange(20)[None] * 7 % 256
KINDS: list[QuantizationKind] = ["nf4", "fp4", "int8"]


DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU")),
]


def load(folder: Path, kind: QuantizationKind | None, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    quantization = None if kind is None else Quantization(kind)
    return load_base_model(folder, dtype=dtype, device=device, quantization=quantization)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@torch.no_grad()
def stir(adapter: LoraAdapter, amount: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(1)
    for layer in adapter.layers.values():
        layer.lora_b.copy_(amount * torch.randn(layer.lora_b.shape, generator=generator))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_values_and_gradients_are_those_of_the_written_out_weight(
    base_model_dir: Path, kind: QuantizationKind, dtype: torch.dtype, device: str
) -> None:
    adapter = LoraAdapter.attach(load(base_model_dir, kind, dtype, device), QloraMethod(quantization=kind, rank=4))
    stir(adapter)
    for layer in list(adapter.layers.values())[:2]:
        assert is_quantised(layer.weight)
        assert layer.lora_a.dtype == torch.float32
        x = torch.randn(3, layer.in_features, dtype=dtype, device=device).requires_grad_()
        weight = dense(layer.weight, dtype).clone()
        lora_a, lora_b = layer.lora_a.to(dtype), layer.lora_b.to(dtype)
        expected = F.linear(x, weight) + layer.scale * F.linear(F.linear(x, lora_a), lora_b)
        y = layer(x)
        dense(next(iter(adapter.layers.values())).weight, dtype).mul_(0)  # Whatever was lent is not what was kept.
        wanted = [x, layer.lora_a, layer.lora_b]
        ours = torch.autograd.grad(y.float().square().sum(), wanted)
        theirs = torch.autograd.grad(expected.float().square().sum(), wanted)
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        for our, their in zip((y, *ours), (expected, *theirs), strict=True):
            assert (our - their).norm() <= tolerance * their.norm()


@pytest.fixture
def _lend_as_a_gpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 bits are written out into the one buffer on the CPU too; what bitsandbytes lacks there is a copy."""
    from bitsandbytes import functional

    allocate = functional.dequantize_4bit

    def dequantize_4bit(packed: torch.Tensor, state: Any, out: torch.Tensor) -> torch.Tensor:
        assert (out.shape, out.dtype) == (state.shape, state.dtype)
        return out.copy_(allocate(packed, state))

    monkeypatch.setattr(functional, "dequantize_4bit", dequantize_4bit)
    monkeypatch.setattr(frozen_weight, "_ALLOCATED_ANEW", set())
    monkeypatch.setattr(frozen_weight, "_buffers", {})


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.usefixtures("_lend_as_a_gpu_does")
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_keeps_the_lent_buffer(base_model_dir: Path, use_dora: bool, checkpointing: bool) -> None:
    """Overwritten whenever a layer is done with it, it changes no value and no gradient, and there is but one."""
    method = QloraMethod(rank=4, use_dora=use_dora)
    results, sizes = [], []
    for poisons in (False, True):
        model = load(base_model_dir, "nf4")
        adapter = LoraAdapter.attach(model, method)
        stir(adapter)
        assert fast_modules.install(model)["LlamaRMSNorm"] == 5
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        if poisons:
            for module in model.modules():
                module.register_forward_hook(lambda *_: _poison())
            for parameter in adapter.parameters().values():  # Called when the layer's gradients are there.
                parameter.register_hook(lambda _: _poison())
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in adapter.parameters().values())])
        sizes.append([buffer.numel() for buffer in frozen_weight._buffers.values()])
    assert all(map(torch.equal, *results))
    largest = max(layer.in_features * layer.out_features for layer in adapter.layers.values())
    assert sizes == [[largest]] * 2


def _poison() -> None:
    for buffer in frozen_weight._buffers.values():
        buffer.fill_(torch.nan)


def test_the_written_out_weight_is_not_saved_for_the_backward(base_model_dir: Path) -> None:
    adapter = LoraAdapter.attach(load(base_model_dir, "nf4"), QloraMethod(rank=4))
    layer = adapter.layers["model.layers.0.mlp.up_proj"]
    saved: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda t: t):
        layer(torch.randn(3, layer.in_features).requires_grad_())
    assert torch.Size([layer.out_features, layer.in_features]) not in saved
    assert saved


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_learns_and_verifies(make_run: MakeRun, kind: QuantizationKind) -> None:
    run = make_run(method={"type": "qlora", "quantization": kind}, max_steps=4)
    train(run)
    steps = events_of(run.output_dir, "step")
    assert steps[-1].loss < steps[0].loss
    result = check(run)
    assert result.changes_something
    assert result.max_difference <= result.tolerance


def test_a_quantised_base_is_merged_onto_what_is_closer(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "base")
    model = load(folder, "nf4")
    adapter = LoraAdapter.attach(model, QloraMethod(rank=4))
    stir(adapter)
    with pytest.raises(BadConfig, match="is quantised and cannot be merged into"):
        merge(adapter)

    merged = merge_dense(adapter, lambda: load(folder, None), IDS)

    assert quantization_in(merged.model) is None
    assert merged.base == min(merged.distances, key=merged.distances.__getitem__) == "dequantised"
    assert merged.distances["dequantised"] < 1e-4 < merged.distances["stored"]
    assert (logits(merged.model) - logits(model)).norm() <= 1e-4 * logits(model).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_gpt2s_transposed_layers_are_quantised_too(tmp_path: Path, kind: QuantizationKind) -> None:
    folder = write_base("gpt2", tmp_path / "base")
    model = load(folder, kind)
    before = logits(model)
    adapter = LoraAdapter.attach(model, QloraMethod(quantization=kind, rank=4))
    assert all(is_quantised(layer.weight) for layer in adapter.layers.values())
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    stir(adapter)
    merged = merge_dense(adapter, lambda: load(folder, None), IDS)
    assert merged.distances["dequantised"] < 1e-4


def test_fresh_qlora_changes_nothing(base_model_dir: Path) -> None:
    for kind in KINDS:
        model = load(base_model_dir, kind)
        before = logits(model)
        LoraAdapter.attach(model, QloraMethod(quantization=kind, rank=4))
        torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)


def test_qlora_takes_loras_fields() -> None:
    document = {"base_model": "m", "dataset": {"path": "x"}, "method": {"type": "qlora", "rank": 8, "use_dora": True}}
    method = TrainingSpec.model_validate(document).method
    assert isinstance(method, QloraMethod)
    assert (method.rank, method.quantization, method.use_dora, method.double_quantization) == (8, "nf4", True, True)
