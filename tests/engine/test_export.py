"""Every form of an export computes what was trained; it is there whole or not at all; what has no such form says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_hub.artifacts.manifest import verify_files
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.exports import export as exporting
from finetune_hub.engine.exports.export import export
from finetune_hub.engine.methods import attach_method
from finetune_hub.engine.model import load_base_model
from finetune_hub.engine.peft import peft_format
from finetune_hub.engine.verify import UnfaithfulAdapter
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.methods.low_rank import LoraMethod
from finetune_hub.spec.methods.method import Method
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod, PromptTuningMethod
from finetune_hub.spec.run import ExportFormat, ExportResult, ExportRun
from tests.engine.model_types import write_base
from tests.tiny_models import make_tiny_model, make_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

IDS = torch.arange(24)[None] * 7 % 256
UNEVEN = {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 3.0}}


def make_adapter(base: Path, folder: Path, method: Method | None = None, *, amount: float = 0.05) -> torch.Tensor:
    """Write an adapter that changes something, and return its logits in float32."""
    model = load_base_model(base, dtype=torch.float32, device="cpu")
    adapter = attach_method(model, method or LoraMethod(rank=4, alpha=8))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters().values():
            parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    peft_format.write_adapter(folder, adapter, base_model_name="tiny")
    return logits(model)[:, -IDS.shape[1] :]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits.float()


def run_export(base: Path, adapter: Path, form: ExportFormat, output: Path, **options: Any) -> ExportResult:
    run = ExportRun(base_model_dir=base, adapter_dir=adapter, format=form, output_dir=output, **options)
    with EventLog(output) as log:
        return export(run, log)


@pytest.mark.parametrize("form", ["peft", "portable"])
def test_peft_reads_the_adapter_itself_and_its_portable_form(base_model_dir: Path, tmp_path: Path, form: Any) -> None:
    from peft import PeftModel

    expected = make_adapter(base_model_dir, tmp_path / "adapter", LoraMethod(rank=4, alpha=8, **UNEVEN))
    result = run_export(base_model_dir, tmp_path / "adapter", form, tmp_path / "out")

    folder = tmp_path / "out" / "export"
    verify_files(folder, result.files)
    assert {entry.path for entry in result.files} == {"adapter_config.json", "adapter_model.safetensors"}
    assert result.distance <= result.tolerance < result.moved
    settings = json.loads((folder / "adapter_config.json").read_bytes())
    assert (settings["rank_pattern"] == {}) == (form == "portable")
    base = AutoModelForCausalLM.from_pretrained(base_model_dir, dtype=torch.float32)
    torch.testing.assert_close(logits(PeftModel.from_pretrained(base, folder)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("use_dora", [False, True])
def test_a_merged_folder_is_a_model_of_its_own(base_model_dir: Path, tmp_path: Path, use_dora: bool) -> None:
    method = LoraMethod(rank=4, alpha=8, use_dora=use_dora)
    expected = make_adapter(base_model_dir, tmp_path / "adapter", method)
    result = run_export(base_model_dir, tmp_path / "adapter", "merged", tmp_path / "out")

    folder = tmp_path / "out" / "export"
    assert result.number_format == "f32"
    plain = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-4)
    ours, base = AutoTokenizer.from_pretrained(folder), AutoTokenizer.from_pretrained(base_model_dir)
    chat = [{"role": "user", "content": "One, two."}]
    assert ours.apply_chat_template(chat)["input_ids"] == base.apply_chat_template(chat)["input_ids"]


def test_a_large_model_is_written_in_shards(
    base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "SHARD_BYTES", "200KB")
    expected = make_adapter(base_model_dir, tmp_path / "adapter")
    run_export(base_model_dir, tmp_path / "adapter", "merged", tmp_path / "out")
    folder = tmp_path / "out" / "export"
    index = json.loads((folder / "model.safetensors.index.json").read_bytes())
    assert len(set(index["weight_map"].values())) > 1
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(folder)), expected, rtol=0, atol=1e-4)


def test_a_mixture_of_experts_is_merged_too(tmp_path: Path) -> None:
    base = write_base("mixtral", tmp_path / "base")
    make_tokenizer(base)
    method = LoraMethod(rank=2, target_modules=["q_proj"], target_parameters=["gate_up_proj", "down_proj"])
    expected = make_adapter(base, tmp_path / "adapter", method)
    run_export(base, tmp_path / "adapter", "merged", tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "export")
    torch.testing.assert_close(logits(plain), expected, rtol=0, atol=1e-4)


def test_16_bits_are_kept_and_what_they_round_away_is_told(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", dtype="bfloat16")
    make_adapter(base, tmp_path / "adapter", amount=0.002)
    kept = run_export(base, tmp_path / "adapter", "merged", tmp_path / "f32", number_format="f32")
    rounded = run_export(base, tmp_path / "adapter", "merged", tmp_path / "auto")

    assert rounded.number_format == "bf16"
    with safe_open(tmp_path / "auto" / "export" / "model.safetensors", framework="pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}  # noqa: SIM118
    assert kept.distance < rounded.distance
    assert not kept.warnings
    assert "f32 would keep all of it" in rounded.warnings[0]


def test_a_quantised_base_merges_onto_the_weights_that_are_closer(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter")
    result = run_export(base, tmp_path / "adapter", "merged", tmp_path / "out", quantization="nf4")
    assert result.merge_distances is not None
    assert result.merged_onto == min(result.merge_distances, key=result.merge_distances.__getitem__) == "dequantised"
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "export")
    adapted = load_base_model(base, dtype=torch.float32, device="cpu", quantization=exporting.Quantization("nf4"))
    peft_format.attach_adapter(adapted, tmp_path / "adapter")
    assert (logits(plain) - logits(adapted)).norm() <= 1e-3 * logits(adapted).norm()


@pytest.mark.parametrize("method", [PromptTuningMethod(virtual_tokens=3), PrefixTuningMethod(virtual_tokens=3)])
def test_virtual_tokens_are_exported_for_peft_alone(base_model_dir: Path, tmp_path: Path, method: Any) -> None:
    make_adapter(base_model_dir, tmp_path / "adapter", method)
    result = run_export(base_model_dir, tmp_path / "adapter", "peft", tmp_path / "peft")
    assert result.distance == 0 < result.moved
    forms: list[ExportFormat] = ["portable", "merged", "gguf-adapter", "gguf-merged"]
    for form in forms:
        with pytest.raises(BadConfig, match=f"`{form}` needs a LoRA adapter.*Export it as `peft`"):
            run_export(base_model_dir, tmp_path / "adapter", form, tmp_path / "out")


@pytest.mark.parametrize(
    ("form", "method", "message"),
    [
        ("portable", {"use_dora": True}, "DoRA has no portable form.*merged"),
        ("gguf-adapter", {"use_dora": True}, "DoRA has no portable form.*merged"),
        ("portable", {"target_modules": ["embed_tokens"]}, "embed_tokens is not a linear layer"),
        ("gguf-adapter", {"target_modules": ["embed_tokens"]}, "embed_tokens is not a linear layer"),
        ("merged", {"target_modules": ["embed_tokens"]}, "shares its weight with the output head"),
    ],
)
def test_what_has_no_such_form_names_another(
    base_model_dir: Path, tmp_path: Path, form: Any, method: dict[str, Any], message: str
) -> None:
    make_adapter(base_model_dir, tmp_path / "adapter", LoraMethod(rank=4, **method))
    with pytest.raises(BadConfig, match=message):
        run_export(base_model_dir, tmp_path / "adapter", form, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"events.jsonl"}


@pytest.mark.parametrize(
    ("form", "number_format", "message"),
    [
        ("portable", "bf16", "PEFT's format are always float32"),
        ("merged", "q8_0", "safetensors does not support q8_0.*gguf-merged"),
    ],
)
def test_number_formats_that_a_form_lacks(
    base_model_dir: Path, tmp_path: Path, form: Any, number_format: str, message: str
) -> None:
    make_adapter(base_model_dir, tmp_path / "adapter")
    with pytest.raises(BadConfig, match=message):
        run_export(base_model_dir, tmp_path / "adapter", form, tmp_path / "out", number_format=number_format)


def test_other_families_are_sent_to_safetensors(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", architecture="gpt_neox")
    make_adapter(base, tmp_path / "adapter")
    with pytest.raises(BadConfig, match=r"llama, mistral, qwen2, qwen3 and gemma.*type gpt_neox.*`merged`"):
        run_export(base, tmp_path / "adapter", "gguf-merged", tmp_path / "out")


def test_files_that_compute_something_else_are_not_left(
    base_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter(base_model_dir, tmp_path / "adapter", LoraMethod(rank=4, alpha=8))
    shutil.copytree(tmp_path / "adapter", tmp_path / "out" / "export")  # Of an earlier export.
    write = peft_format.write_files

    def write_a_wrong_scale(folder: Path, tensors: Any, config: dict[str, Any], **options: Any) -> None:
        write(folder, tensors, config | {"lora_alpha": 2 * config["lora_alpha"]}, **options)

    monkeypatch.setattr(peft_format, "write_files", write_a_wrong_scale)
    with pytest.raises(UnfaithfulAdapter, match="differ from the adapter's"):
        run_export(base_model_dir, tmp_path / "adapter", "portable", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"events.jsonl"}
