"""What holds for every variant of LoRA: it starts as the base, is merged and unmerged exactly, and PEFT reads it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.adapter import parameter_groups
from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.lora_layers import LoraLinear
from finetune_hub.engine.adapters.merge import merge
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.model import load_base_model
from finetune_hub.engine.peft import peft_format, peft_lora
from finetune_hub.spec.methods.low_rank import LoraMethod
from tests.tiny_models import make_tiny_model

# PEFT 0.21 asks transformers for an attribute that transformers 5.23 has renamed.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

IDS = torch.arange(20)[None] * 7 % 256
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "gaussian": {"init_weights": "gaussian"},
    "pissa": {"init_weights": "pissa"},
    "rspissa": {"init_weights": "pissa", "use_rslora": True},
    "olora": {"init_weights": "olora"},
    "rsolora": {"init_weights": "olora", "use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 8, r"layers\.1\.mlp\.up_proj": 2}, "alpha_pattern": {"mlp.*": 3.0}},
    "regex": {"target_modules": r".*\.(q|v)_proj"},
    "exclude": {"exclude_modules": ["down_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
}


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama whose head does not share the embedding's weight."""
    import json

    folder = make_tiny_model(tmp_path_factory.mktemp("untied") / "base", architecture="gpt_neox")
    config = json.loads((folder / "config.json").read_text())
    assert not config["tie_word_embeddings"]
    return folder


def load(folder: Path) -> PreTrainedModel:
    return load_base_model(folder, dtype=torch.float32, device="cpu")


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


@torch.no_grad()
def stir(adapter: LoraAdapter) -> None:
    """Make the adapter change something."""
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters().values():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", VARIANTS)
def test_fresh_saved_merged_and_unmerged(base_model_dir: Path, tmp_path: Path, name: str) -> None:
    from peft import PeftModel

    model = load(base_model_dir)
    before = logits(model)
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4, alpha=8, **VARIANTS[name]))
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    stir(adapter)
    adapted = logits(model)
    assert (adapted - before).abs().max() > 0.1

    peft_format.write_adapter(tmp_path, adapter, base_model_name="tiny")
    theirs = PeftModel.from_pretrained(load(base_model_dir), tmp_path)
    torch.testing.assert_close(logits(theirs), adapted, rtol=0, atol=1e-4)
    ours = load(base_model_dir)
    peft_format.attach_adapter(ours, tmp_path)
    torch.testing.assert_close(logits(ours), adapted, rtol=0, atol=1e-4)

    if name == "embedding":
        with pytest.raises(BadConfig, match="shares its weight with the output head"):
            merge(adapter)
        return
    stored = {key: tensor.clone() for key, tensor in load(base_model_dir).state_dict().items()}
    merged = merge(adapter)
    assert model.state_dict().keys() == stored.keys()
    assert (logits(model) - adapted).norm() <= 1e-5 * adapted.norm()
    merged.undo()
    assert torch.equal(logits(model), adapted)
    adapter.remove()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in model.state_dict().items())


def test_an_embedding_of_its_own_is_merged(untied: Path) -> None:
    model = load(untied)
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4, target_modules=["embed_in", "query_key_value"]))
    stir(adapter)
    adapted = logits(model)
    merge(adapter)
    assert (logits(model) - adapted).norm() <= 1e-5 * adapted.norm()


def test_a_mixtures_experts_are_adapted_and_given_back(tmp_path: Path) -> None:
    model = load(make_mixture(tmp_path / "base"))
    before, stored = logits(model), {key: tensor.clone() for key, tensor in model.state_dict().items()}
    method = LoraMethod(rank=2, target_modules=["q_proj"], target_parameters=["gate_up_proj", "down_proj"])
    adapter = LoraAdapter.attach(model, method)
    torch.testing.assert_close(logits(model), before)
    assert len(adapter.experts) == 4  # 2 layers × 2 parameters
    stir(adapter)
    adapted = logits(model)
    assert (adapted - before).abs().max() > 0.1
    with adapter.disabled():
        assert torch.equal(logits(model), before)
    merged = merge(adapter)
    assert (logits(model) - adapted).norm() <= 1e-5 * adapted.norm()
    merged.undo()
    assert torch.equal(logits(model), adapted)
    adapter.remove()
    assert model.state_dict().keys() == stored.keys()
    assert all(torch.equal(tensor, stored[key]) for key, tensor in model.state_dict().items())


def make_mixture(folder: Path) -> Path:
    from tests.engine.model_types import write_base

    return write_base("mixtral", folder)


@pytest.mark.parametrize("name", ["plain", "rslora", "pissa", "olora", "patterns"])
def test_the_portable_form_computes_the_same(base_model_dir: Path, tmp_path: Path, name: str) -> None:
    model = load(base_model_dir)
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4, alpha=8, **VARIANTS[name]))
    stir(adapter)
    peft_format.write_files(tmp_path, *peft_lora.portable(adapter), base_model_name="tiny")

    method = peft_format.read_method(tmp_path)
    assert isinstance(method, LoraMethod)
    assert method.alpha == method.rank
    assert (method.use_rslora, method.rank_pattern, method.alpha_pattern) == (False, None, None)
    ranks = {t.shape[0] for k, t in load_file(tmp_path / "adapter_model.safetensors").items() if "lora_A" in k}
    assert ranks == {method.rank}
    ours = load(base_model_dir)
    peft_format.attach_adapter(ours, tmp_path)
    torch.testing.assert_close(logits(ours), logits(model), rtol=0, atol=1e-4)


def test_rank_16_on_4096_by_4096_trains_131072_of_16_8_million() -> None:
    linear = nn.Linear(4096, 4096, bias=False)
    layer = LoraLinear(linear, LoraMethod(rank=16), "layer", torch.Generator())
    assert layer.lora_a.numel() + layer.lora_b.numel() == 131_072
    assert layer.weight.numel() == 16_777_216
    assert layer.weight is linear.weight


def test_scales(base_model_dir: Path) -> None:
    def scale(**options: Any) -> float:
        adapter = LoraAdapter.attach(load(base_model_dir), LoraMethod(rank=16, alpha=32, **options))
        return next(iter(adapter.layers.values())).scale

    assert scale() == 2
    assert scale(use_rslora=True) == 8
    assert scale(alpha_pattern={"q_proj": 8.0}) == 0.5
    assert scale(rank_pattern={"q_proj": 4}, use_rslora=True) == 32 / math.sqrt(4)


def test_lora_plus_gives_b_a_learning_rate_of_its_own(base_model_dir: Path) -> None:
    adapter = LoraAdapter.attach(load(base_model_dir), LoraMethod(rank=4, learning_rate_ratio=16))
    groups = {group["lr"]: group["params"] for group in parameter_groups(adapter, 0.5)}
    assert groups.keys() == {0.5, 8.0}
    assert all(parameter.shape[1] == 4 for parameter in groups[8.0])
    assert all(parameter.shape[0] == 4 for parameter in groups[0.5])


@pytest.mark.parametrize("name", ["plain", "dora", "pissa"])
def test_what_is_saved_for_the_backward_is_not_changed(base_model_dir: Path, name: str) -> None:
    model = load(base_model_dir)
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4, dropout=0.1, **VARIANTS[name]))
    model.train()
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append((tensor, tensor.detach().clone()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    assert len(saved) > 50
    assert all(torch.equal(tensor, before) for tensor, before in saved)
    assert all(parameter.grad is not None for parameter in adapter.parameters().values())


def test_pissa_trains_the_principal_components(base_model_dir: Path) -> None:
    adapter = LoraAdapter.attach(load(base_model_dir), LoraMethod(rank=4, alpha=8, init_weights="pissa"))
    layer = next(iter(adapter.layers.values()))
    u, s, vh = torch.linalg.svd(layer.weight)
    torch.testing.assert_close(layer.scale * layer.lora_b @ layer.lora_a, u[:, :4] * s[:4] @ vh[:4])


def test_olora_starts_from_the_factors_that_peft_finds(base_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    adapter = LoraAdapter.attach(load(base_model_dir), LoraMethod(rank=4, alpha=8, init_weights="olora"))
    theirs = get_peft_model(
        load(base_model_dir), LoraConfig(r=4, lora_alpha=8, init_lora_weights="olora", target_modules="all-linear")
    )
    for path, layer in adapter.layers.items():
        their_layer = theirs.get_submodule(f"base_model.model.{path}")
        torch.testing.assert_close(layer.lora_a, their_layer.lora_A["default"].weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.lora_b, their_layer.lora_B["default"].weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init_weights", ["pissa", "olora"])
def test_a_rank_above_the_weights_own_starts_the_rest_as_plain_lora(init_weights: str) -> None:
    linear = nn.Linear(24, 6, bias=False)
    layer = LoraLinear(linear, LoraMethod(rank=8, alpha=8, init_weights=init_weights), "layer", torch.Generator())
    torch.testing.assert_close(layer.scale * layer.lora_b @ layer.lora_a, linear.weight)
    assert not layer.lora_b[:, 6:].any()
    assert layer.lora_a[6:].any(dim=1).all()


def test_what_excludes_each_other_is_refused(base_model_dir: Path) -> None:
    with pytest.raises(ValueError, match="cannot be combined"):
        LoraMethod(use_dora=True, init_weights="pissa")
    with pytest.raises(ValueError, match="not a regular expression"):
        LoraMethod(target_modules="(q_proj")
    with pytest.raises(ValueError, match="not a regular expression"):
        LoraMethod(rank_pattern={"q_proj[": 4})
    with pytest.raises(BadConfig, match=r"fully matches 'q_proj'.*\[q_proj\]"):
        LoraAdapter.attach(load(base_model_dir), LoraMethod(target_modules="q_proj"))
    with pytest.raises(BadConfig, match="embedding, which supports only plain LoRA"):
        LoraAdapter.attach(load(base_model_dir), LoraMethod(target_modules=["embed_tokens"], use_dora=True))
    with pytest.raises(BadConfig, match="is left for LoRA"):
        LoraAdapter.attach(load(base_model_dir), LoraMethod(exclude_modules=".*"))
    with pytest.raises(BadConfig, match="this model has none"):
        LoraAdapter.attach(load(base_model_dir), LoraMethod(target_parameters=["gate_up_proj"]))
