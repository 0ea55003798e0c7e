"""Base models come in whole, without code, and the same every time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from finetune_hub.artifacts.manifest import manifest_of
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.import_model import import_model
from finetune_hub.engine.model import load_base_model
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.run import ImportResult, ImportRun
from tests.tiny_models import CHATML


def run_import(source: Path, output_dir: Path) -> ImportResult:
    with EventLog(output_dir) as log:
        return import_model(ImportRun(source=source, output_dir=output_dir), log)


def test_a_folder_is_copied_without_its_code(base_model_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_model_dir, tmp_path / "source")
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    (source / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Tiny\n")

    result = run_import(source, tmp_path / "out")

    names = {path.name for path in (tmp_path / "out" / "model").iterdir()}
    assert names == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    facts = result.facts
    assert (facts.architecture, facts.layers, facts.hidden_size, facts.heads, facts.kv_heads) == (
        "LlamaForCausalLM",
        2,
        64,
        4,
        2,
    )
    assert (facts.vocabulary_size, facts.context_length, facts.dtype, facts.license) == (320, 512, "float32", "mit")
    assert facts.tied_head
    assert facts.chat_template_sha256 is not None
    model = load_base_model(tmp_path / "out" / "model", dtype=torch.float32, device="cpu")
    assert facts.parameter_count == sum(parameter.numel() for parameter in model.parameters())


def test_pickles_are_refused_with_a_way_out(base_model_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_model_dir, tmp_path / "source")
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    with pytest.raises(BadConfig, match=r"pickled \(pytorch_model\.bin\).*save_pretrained"):
        run_import(source, tmp_path / "out")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_part_is_named(base_model_dir: Path, tmp_path: Path, missing: str) -> None:
    source = shutil.copytree(base_model_dir, tmp_path / "source")
    (source / missing).unlink()
    with pytest.raises(BadConfig, match=missing if missing != "model.safetensors" else "safetensors"):
        run_import(source, tmp_path / "out")


def test_a_file_cut_short_is_refused(base_model_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_model_dir, tmp_path / "source")
    weights = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(BadConfig, match="not a complete safetensors file"):
        run_import(source, tmp_path / "out")


def test_a_base_model_without_template_comes_in_with_a_warning(base_model_dir: Path, tmp_path: Path) -> None:
    source = shutil.copytree(base_model_dir, tmp_path / "source")
    settings = source / "tokenizer_config.json"
    settings.write_text('{"eos_token": "<|im_end|>"}')
    result = run_import(source, tmp_path / "out")
    assert result.facts.chat_template_sha256 is None
    assert "no chat template" in result.warnings[0]


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"nothing")
    with pytest.raises(BadConfig, match="not a GGUF file"):
        run_import(tmp_path / "x.gguf", tmp_path / "out")
    with pytest.raises(BadConfig, match="no model at"):
        run_import(tmp_path / "absent", tmp_path / "out")


def test_gguf_becomes_the_same_bfloat16_folder_every_time(base_model_dir: Path, tmp_path: Path) -> None:
    source = write_gguf(base_model_dir, tmp_path / "tiny.gguf")
    first, second = run_import(source, tmp_path / "one"), run_import(source, tmp_path / "two")
    assert first == second
    assert manifest_of(tmp_path / "one" / "model") == manifest_of(tmp_path / "two" / "model")
    assert (first.facts.dtype, first.facts.license, first.facts.layers) == ("bfloat16", "mit", 2)
    assert first.facts.chat_template_sha256 is not None

    original = load_base_model(base_model_dir, dtype=torch.bfloat16, device="cpu")
    imported = load_base_model(tmp_path / "one" / "model", dtype=torch.bfloat16, device="cpu")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(imported(ids).logits, original(ids).logits, rtol=0.05, atol=0.05)


def write_gguf(base_model_dir: Path, path: Path) -> Path:
    """The tiny llama as GGUF, with q and k permuted as llama.cpp keeps them."""
    import gguf
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base_model_dir / "tokenizer.json"))
    tokens = [tokenizer.id_to_token(index) for index in range(tokenizer.get_vocab_size())]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("mit")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(128)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(320)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in tokens])
    writer.add_token_merges(["Ġ t", "h e", "Ġ a", "i n", "Ġt he"])
    writer.add_bos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    writer.add_eos_token_id(tokenizer.token_to_id("<|im_end|>"))
    writer.add_chat_template(CHATML)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for key, tensor in load_file(base_model_dir / "model.safetensors").items():
        name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(key)
        if name is None:
            _, _, layer, part = key.removesuffix(".weight").split(".", 3)
            name = f"blk.{layer}.{names[part]}.weight"
            heads = {"self_attn.q_proj": 4, "self_attn.k_proj": 2}.get(part)
            if heads:
                tensor = tensor.view(heads, 2, 8, 64).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(name, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
