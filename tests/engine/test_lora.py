"""LoRA's algebra on real architectures: nothing changed at first, merged equals adapted, packed equals alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.merge import merge
from finetune_hub.engine.dataset import Batch, TokenRow
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.model import FastPaths, load_base_model, prove_fast_paths
from finetune_hub.engine.objectives.objective import Setting, backward, token_losses
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.spec.methods.low_rank import LoraMethod
from tests.tiny_models import make_tiny_model

ARCHITECTURES = ["llama", "qwen2", "gpt_neox", "mistral"]
IDS = torch.arange(20)[None] * 7 % 256


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    folder = make_tiny_model(tmp_path / "base", architecture=request.param)
    return load_base_model(folder, dtype=torch.float32, device="cpu")


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def stir(adapter: LoraAdapter) -> None:
    """Make the adapter change something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_b.normal_(std=0.1, generator=generator)


def row(name: str, tokens: int) -> TokenRow:
    ids = torch.arange(tokens, dtype=torch.int32) * (11 + tokens) % 256
    return TokenRow(name, ids, torch.arange(tokens // 2, tokens - 1, dtype=torch.int32), 0)


def test_a_fresh_adapter_changes_nothing(model: PreTrainedModel) -> None:
    before = logits(model)
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4))
    assert len(adapter.layers) >= 8
    assert torch.equal(logits(model), before)


def test_merged_equals_adapted_and_disabled_equals_base(model: PreTrainedModel) -> None:
    before = logits(model)
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4, alpha=12))
    stir(adapter)
    adapted = logits(model)
    assert (adapted - before).abs().max() > 0.1
    with adapter.disabled():
        assert torch.equal(logits(model), before)

    merge(adapter)

    torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-4)


def test_packed_equals_alone_in_loss_and_gradient(model: PreTrainedModel) -> None:
    paths = prove_fast_paths(model)
    assert paths == FastPaths(packed=True, plain_head=True)
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4))
    stir(adapter)
    rows = [row("a", 17), row("b", 5), row("c", 30)]

    def loss_and_gradient(paths: FastPaths) -> tuple[torch.Tensor, list[torch.Tensor]]:
        loss = backward(Sft(Setting(model, paths)), rows, sum(len(row.targets) for row in rows))[0]
        gradients = [parameter.grad.clone() for parameter in adapter.parameters().values()]
        model.zero_grad()
        return loss, gradients

    packed = loss_and_gradient(paths)
    model.set_attn_implementation("sdpa")
    alone = loss_and_gradient(FastPaths(packed=False, plain_head=False))

    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


def test_padding_is_not_needed_and_rows_do_not_see_each_other(model: PreTrainedModel) -> None:
    paths = prove_fast_paths(model)
    batch = Batch.of([row("a", 9), row("b", 12)])
    other = Batch.of([row("x", 9), row("b", 12)])
    assert batch.lengths == (9, 12)
    assert batch.labels.tolist() == batch.input_ids[batch.predictors + 1].tolist()
    with torch.no_grad():
        losses = [
            token_losses(model, paths, b).sum() - token_losses(model, paths, Batch.of([row(name, 9)])).sum()
            for b, name in ((batch, "a"), (other, "x"))
        ]
        alone = token_losses(model, paths, Batch.of([row("b", 12)])).sum()
    torch.testing.assert_close(losses, [alone, alone], rtol=1e-4, atol=1e-4)


def test_a_model_that_leaks_between_documents_is_not_packed(model: PreTrainedModel) -> None:
    """The proof is by trial: a layer that mixes neighbours is found out."""
    layer = model.base_model.layers[0]
    layer.register_forward_hook(lambda _, __, output: output + output.roll(1, dims=1))
    assert not prove_fast_paths(model).packed
    assert model.config._attn_implementation == "sdpa"


def test_a_head_with_a_scale_of_its_own_is_not_bypassed(model: PreTrainedModel) -> None:
    model.register_forward_hook(lambda _, __, output: setattr(output, "logits", output.logits / 2))
    assert not prove_fast_paths(model).plain_head


def test_targets_by_name(base_model_dir: Path) -> None:
    model = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
    with pytest.raises(BadConfig, match=r"'query'.*down_proj, gate_proj, k_proj"):
        LoraAdapter.attach(model, LoraMethod(target_modules=["query"]))
    adapter = LoraAdapter.attach(model, LoraMethod(target_modules=["q_proj", "layers.1.mlp.up_proj"]))
    assert sorted(adapter.layers) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
        "model.layers.1.self_attn.q_proj",
    ]


def test_adapters_stay_in_float32_on_a_bfloat16_base(base_model_dir: Path) -> None:
    model = load_base_model(base_model_dir, dtype=torch.bfloat16, device="cpu")
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4))
    assert {parameter.dtype for parameter in adapter.parameters().values()} == {torch.float32}
    backward(Sft(Setting(model, prove_fast_paths(model))), [row("a", 17)], 8)[0]
    assert all(parameter.grad.dtype == torch.float32 for parameter in adapter.parameters().values())
