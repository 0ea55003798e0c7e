"""PEFT reads what we write and we read what PEFT writes, with the same logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.model import load_base_model
from finetune_hub.engine.peft import peft_format
from finetune_hub.spec.methods.low_rank import LoraMethod
from tests.tiny_models import make_tiny_model

# PEFT 0.21 asks transformers for an attribute that transformers 5.23 has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.arange(20)[None] * 7 % 256


@pytest.fixture(params=["llama", "gpt_neox"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_tiny_model(tmp_path / "base", architecture=request.param)


def load(folder: Path) -> torch.nn.Module:
    return load_base_model(folder, dtype=torch.float32, device="cpu")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def write_stirred(base: Path, folder: Path, **method: object) -> torch.Tensor:
    """Write an adapter that changes something; gives its logits."""
    model = load(base)
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4, alpha=6, **method))
    with torch.no_grad():
        for layer in adapter.layers.values():
            layer.lora_b.normal_(std=0.1)
    peft_format.write_adapter(folder, adapter, base_model_name="tiny")
    return logits(model)


def test_peft_reads_ours(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    expected = write_stirred(base, tmp_path / "adapter")
    theirs = PeftModel.from_pretrained(load(base), tmp_path / "adapter")
    torch.testing.assert_close(logits(theirs), expected, rtol=0, atol=1e-4)
    assert (logits(load(base)) - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    "options", [{"target_modules": "all-linear"}, {"target_modules": r".*\.0\..*(query_key_value|q_proj)"}]
)
def test_we_read_pefts(base: Path, tmp_path: Path, options: dict[str, object]) -> None:
    from peft import LoraConfig, get_peft_model

    theirs = get_peft_model(load(base), LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **options)).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    theirs.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)

    ours = load(base)
    peft_format.attach_adapter(ours, tmp_path / "adapter")
    torch.testing.assert_close(logits(ours), logits(theirs), rtol=0, atol=1e-4)


def test_the_files_are_pefts(base_model_dir: Path, tmp_path: Path) -> None:
    write_stirred(base_model_dir, tmp_path, target_modules=["q_proj"])
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {key: config[key] for key in ("peft_type", "task_type", "r", "lora_alpha", "target_modules")} == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 6,
        "target_modules": ["q_proj"],
    }
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    assert tensors[f"{name}.lora_A.weight"].shape == (4, 64)
    assert tensors[f"{name}.lora_B.weight"].shape == (64, 4)


def test_what_does_not_fit_is_refused(base_model_dir: Path, tmp_path: Path) -> None:
    write_stirred(base_model_dir, tmp_path)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    key = next(iter(weights))

    def refuses(tensors: dict[str, torch.Tensor], words: str) -> None:
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(BadConfig, match=words):
            peft_format.attach_adapter(load(base_model_dir), tmp_path)

    refuses({k: v for k, v in weights.items() if k != key}, "1 tensors are missing")
    refuses(weights | {"stray": torch.zeros(1)}, "1 are unexpected, such as stray")
    refuses(weights | {key: torch.zeros(3, 3)}, "has shape")
    refuses(weights | {key: torch.full_like(weights[key], torch.nan)}, "not finite")
    save_file(weights, tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"bias": "all"}))
    with pytest.raises(BadConfig, match="bias = 'all'"):
        peft_format.attach_adapter(load(base_model_dir), tmp_path)
