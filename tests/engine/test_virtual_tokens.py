"""Prompt and prefix tuning: packed equals alone, generated equals computed, files are PEFT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.adapters.prefix_tuning import PrefixTuningAdapter
from finetune_hub.engine.adapters.prompt_tuning import PromptTuningAdapter
from finetune_hub.engine.dataset import TokenRow
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.generate import generate
from finetune_hub.engine.methods import attach_method
from finetune_hub.engine.model import FastPaths, load_base_model, prove_fast_paths
from finetune_hub.engine.objectives.objective import Setting, backward
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.engine.peft import peft_format
from finetune_hub.spec.methods.registry import METHODS
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod, PromptTuningMethod
from tests.tiny_models import make_tiny_model

# PEFT 0.21 asks transformers for attributes and arguments that transformers 5.23 and 5.24 have renamed.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

IDS = torch.arange(20)[None] * 7 % 256
VARIANTS: dict[str, dict[str, Any]] = {
    "prompt": {"type": "prompt_tuning"},
    "prompt-random": {"type": "prompt_tuning", "init": "random"},
    "prompt-text": {"type": "prompt_tuning", "init": "text", "init_text": "Turn the words around."},
    "prefix": {"type": "prefix_tuning"},
    "prefix-random": {"type": "prefix_tuning", "init": "random"},
    "prefix-text": {"type": "prefix_tuning", "init": "text", "init_text": "Turn the words around."},
    "prefix-projected": {"type": "prefix_tuning", "prefix_projection": True, "projection_hidden_size": 16},
}
METHOD_OPTIONS = {"prompt": VARIANTS["prompt"], "prefix": VARIANTS["prefix"], "projected": VARIANTS["prefix-projected"]}


def load(folder: Path) -> PreTrainedModel:
    return load_base_model(folder, dtype=torch.float32, device="cpu")


def attach(model: PreTrainedModel, options: dict[str, Any]) -> Adapter:
    method = METHODS[options["type"]].model_validate(options | {"virtual_tokens": 5})
    return attach_method(model, method, seed=3)


def logits(model: torch.nn.Module, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**({"input_ids": IDS, "use_cache": False} | inputs)).logits


def row(name: str, tokens: int) -> TokenRow:
    ids = torch.arange(tokens, dtype=torch.int32) * (11 + tokens) % 256
    return TokenRow(name, ids, torch.arange(tokens // 2, tokens - 1, dtype=torch.int32), 0)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox", "mistral"])
@pytest.mark.parametrize("options", METHOD_OPTIONS.values(), ids=METHOD_OPTIONS)
def test_packed_equals_alone_in_loss_and_gradient(tmp_path: Path, architecture: str, options: dict[str, Any]) -> None:
    model = load(make_tiny_model(tmp_path / "base", architecture=architecture))
    paths = prove_fast_paths(model)
    assert paths.packed
    adapter = attach(model, options)
    rows = [row("a", 17), row("b", 5), row("c", 30)]

    def loss_and_gradient(paths: FastPaths) -> tuple[torch.Tensor, list[torch.Tensor]]:
        loss = backward(Sft(Setting(model, paths)), rows, sum(len(row.targets) for row in rows))[0]
        gradients = [parameter.grad.clone() for parameter in adapter.parameters().values()]
        for parameter in adapter.parameters().values():
            parameter.grad = None
        return loss, gradients

    packed = loss_and_gradient(paths)
    model.set_attn_implementation("sdpa")
    alone = loss_and_gradient(FastPaths(packed=False, plain_head=False))
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_files_are_pefts_and_read_back(base_model_dir: Path, tmp_path: Path, name: str) -> None:
    from peft import PeftModel

    model = load(base_model_dir)
    before = logits(model)
    adapter = attach(model, VARIANTS[name])
    adapted = logits(model)
    assert adapted.shape == before.shape
    assert (adapted - before).abs().max() > 0.01
    with adapter.disabled():
        assert torch.equal(logits(model), before)

    peft_format.write_adapter(tmp_path, adapter, base_model_name="tiny")
    theirs = PeftModel.from_pretrained(load(base_model_dir), tmp_path)
    torch.testing.assert_close(logits(theirs)[:, -20:], adapted, rtol=0, atol=1e-4)
    ours = load(base_model_dir)
    peft_format.attach_adapter(ours, tmp_path)
    torch.testing.assert_close(logits(ours), adapted, rtol=0, atol=1e-4)

    adapter.remove()
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_we_read_pefts(base_model_dir: Path, tmp_path: Path, kind: str) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    config = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[kind]
    theirs = get_peft_model(load(base_model_dir), config(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    theirs.save_pretrained(tmp_path)
    ours = load(base_model_dir)
    peft_format.attach_adapter(ours, tmp_path)
    torch.testing.assert_close(logits(ours), logits(theirs)[:, -20:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", METHOD_OPTIONS.values(), ids=METHOD_OPTIONS)
def test_generated_equals_computed(base_model_dir: Path, options: dict[str, Any]) -> None:
    """Also where prompts of several lengths are padded on the left, and keys come from the cache."""
    model = load(base_model_dir)
    attach(model, options)
    prompts = [[5, 9, 77], list(range(40, 60)), [8] * 7]
    answers = generate(model, prompts, stop_ids=[263], max_new_tokens=6)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for _ in range(6):
            best = int(logits(model, input_ids=torch.tensor([ids]))[0, -1].argmax())
            if best == 263:
                break
            ids.append(best)
        assert answer == ids[len(prompt) :]


def test_only_the_virtual_tokens_are_trained(base_model_dir: Path) -> None:
    model = load(base_model_dir)  # 2 layers, 2 key heads of 16, hidden 64.
    prompt = PromptTuningAdapter.attach(model, PromptTuningMethod(virtual_tokens=5))
    assert [tuple(p.shape) for p in prompt.parameters().values()] == [(5, 64)]
    prompt.remove()
    prefix = PrefixTuningAdapter.attach(model, PrefixTuningMethod(virtual_tokens=5))
    assert [tuple(p.shape) for p in prefix.parameters().values()] == [(5, 2 * 2 * 2 * 16)]
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_prefix_of_real_tokens_is_that_text_in_front(base_model_dir: Path) -> None:
    model = load(base_model_dir)
    text = "abcdefgh"
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(base_model_dir / "tokenizer.json")).encode(text).ids
    expected = logits(model, input_ids=torch.cat([torch.tensor([ids]), IDS], dim=1))[:, len(ids) :]
    for method in (PrefixTuningMethod, PromptTuningMethod):
        made = method(virtual_tokens=len(ids), init="text", init_text=text)
        adapter = attach_method(model, made)
        torch.testing.assert_close(logits(model), expected, rtol=1e-4, atol=1e-4)
        adapter.remove()


def test_what_cannot_be_is_refused(base_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give both or neither"):
        PromptTuningMethod(init="text")
    model = load(base_model_dir)
    model.name_or_path = str(tmp_path)
    with pytest.raises(BadConfig, match=r"needs the base model's tokenizer\.json"):
        attach_method(model, PromptTuningMethod(init="text", init_text="x"))
