"""Kernels are put into a model only where they compute what the model's own code does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.kernels.rotary import apply_rotary_pos_emb
from finetune_hub.engine.model import load_base_model
from finetune_hub.engine.quantization import quantization_of
from finetune_hub.spec.methods.low_rank import LoraMethod, QloraMethod
from tests.engine.model_types import write_base
from tests.tiny_models import make_tiny_model

METHODS = [
    LoraMethod(rank=4),
    LoraMethod(rank=4, init_weights="pissa"),
    QloraMethod(rank=4),
    QloraMethod(rank=4, quantization="int8", init_weights="gaussian"),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.type}-{method.init_weights}")
def test_a_fast_model_gives_the_same_loss_and_gradients(base_model_dir: Path, method: LoraMethod | QloraMethod) -> None:
    results = []
    for fast in (False, True):
        quantization = quantization_of(method)
        model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu", quantization=quantization)
        adapter = LoraAdapter.attach(model, method)
        for index, parameter in enumerate(adapter.parameters().values()):
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(index))
        before = [parameter.detach().clone() for parameter in adapter.parameters().values()]
        if fast:
            assert fast_modules.install(model) == {"LlamaMLP": 2, "LlamaRMSNorm": 5}
            assert all(map(torch.equal, adapter.parameters().values(), before))
        ids = torch.arange(9)[None]
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in adapter.parameters().values())])
        with adapter.disabled(), torch.no_grad():
            results[-1].append(model(input_ids=ids).logits)
    for fast_one, plain_one in zip(results[1], results[0], strict=True):
        assert (fast_one - plain_one).norm() <= 1e-5 * plain_one.norm()


def test_a_module_with_another_formula_keeps_its_own_code(
    base_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
    LoraAdapter.attach(model, LoraMethod(rank=4))
    norm, mlp = type(model.model.norm), type(model.model.layers[0].mlp)
    monkeypatch.setattr(norm, "forward", lambda self, x: x * (1 + self.weight))
    plain = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, x: 2 * plain(self, x))
    assert fast_modules.install(model) == {}


@pytest.mark.parametrize("options", [{"dropout": 0.1}, {"target_modules": ["q_proj"]}])
def test_an_mlp_without_plain_lora_keeps_its_own_code(base_model_dir: Path, options: dict[str, object]) -> None:
    model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
    LoraAdapter.attach(model, LoraMethod(rank=4, **options))
    assert "LlamaMLP" not in fast_modules.install(model)


def test_other_families_train_too(tmp_path: Path) -> None:
    model = load_base_model(make_tiny_model(tmp_path, architecture="gpt_neox"), dtype=torch.float32, device="cpu")
    LoraAdapter.attach(model, LoraMethod(rank=4))
    assert fast_modules.install(model) == {}


@pytest.mark.parametrize(
    ("model_type", "is_alike"),
    [
        ("llama", True),
        ("qwen3", True),
        ("gemma2", True),
        ("phi3", False),  # Rotates a part of each head.
        ("cohere", False),  # Rotates pairs in place of halves.
        ("gpt2", False),  # Learned positions.
    ],
)
def test_rotary_positions_are_the_kernels_where_it_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, is_alike: bool
) -> None:
    model = load_base_model(write_base(model_type, tmp_path), dtype=torch.float32, device="cpu")
    file = sys.modules[type(model).__module__]
    plain = getattr(file, "apply_rotary_pos_emb", None)
    if plain is not None:
        monkeypatch.setattr(file, "apply_rotary_pos_emb", plain)  # Put back after the test.
    ids = torch.arange(9)[None]
    expected = model(input_ids=ids).logits
    assert fast_modules.install_rotary(model) is is_alike
    assert (getattr(file, "apply_rotary_pos_emb", None) is apply_rotary_pos_emb) is is_alike
    torch.testing.assert_close(model(input_ids=ids).logits, expected)
