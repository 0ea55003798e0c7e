"""What is written for llama.cpp computes there, and in transformers, what the adapter computes here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.exports.gguf_family import GgufSpelling, rope_of
from finetune_hub.engine.model import load_base_model, read_config
from finetune_hub.spec.methods.low_rank import LoraMethod
from tests.engine.llama_cpp import LlamaCpp
from tests.engine.test_export import IDS, UNEVEN, logits, make_adapter, run_export
from tests.tiny_models import make_sentencepiece_tokenizer, make_tiny_model, make_tokenizer

# Head sizes are those that transformers supposes where it reads a GGUF file, which does not tell it all of them.
GEMMA: dict[str, Any] = {"head_dim": 256, "query_pre_attn_scalar": 256, "bos_token_id": 2, "eos_token_id": 1}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0,
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama 3": ("llama", {"rope_parameters": LLAMA3, "attention_bias": True, "tie_word_embeddings": False}),
    "mistral": ("mistral", {"tie_word_embeddings": False}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 128}),
    "gemma": ("gemma", {"head_dim": 256}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": ("gemma3_text", GEMMA | {"num_hidden_layers": 6}),
}
# Transformers does not read these from GGUF: it ignores Llama 3's factors, and knows no first Gemma.
NOT_READ_BY_TRANSFORMERS = {"llama 3", "gemma"}


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_and_transformers_compute_what_was_trained(tmp_path: Path, family: str) -> None:
    architecture, shape = FAMILIES[family]
    base = make_tiny_model(tmp_path / "base", architecture=architecture, **shape)
    make_noise_in_norms(base)
    if architecture.startswith("gemma"):
        make_sentencepiece_tokenizer(base)
    expected = make_adapter(base, tmp_path / "adapter", LoraMethod(rank=4, alpha=8, **UNEVEN))[0]
    result = run_export(base, tmp_path / "adapter", "gguf-merged", tmp_path / "merged", number_format="f32")
    merged = tmp_path / "merged" / "export" / "model.gguf"
    assert (result.distance <= 1e-5, result.moved > 0.02) == (True, True)

    ids = IDS[0].tolist()
    assert_llama_cpp_agrees(LlamaCpp(merged), ids, expected)
    if family not in NOT_READ_BY_TRANSFORMERS:
        theirs = AutoModelForCausalLM.from_pretrained(merged.parent, gguf_file=merged.name, dtype=torch.float32)
        assert (logits(theirs)[0] - expected).norm() <= 1e-4 * expected.norm()

    plain = load_base_model(base, dtype=torch.float32, device="cpu")
    without = logits(plain)[0]
    make_nothing = LoraMethod(rank=1)
    make_adapter(base, tmp_path / "nothing", make_nothing, amount=0)
    run_export(base, tmp_path / "nothing", "gguf-merged", tmp_path / "base-gguf", number_format="f32")
    run_export(base, tmp_path / "adapter", "gguf-adapter", tmp_path / "lora")
    base_gguf, lora = tmp_path / "base-gguf" / "export" / "model.gguf", tmp_path / "lora" / "export" / "adapter.gguf"
    assert_llama_cpp_agrees(LlamaCpp(base_gguf), ids, without)
    assert_llama_cpp_agrees(LlamaCpp(base_gguf, lora), ids, expected)


def assert_llama_cpp_agrees(llama_cpp: LlamaCpp, ids: list[int], expected: torch.Tensor) -> None:
    """Its log probabilities behind the prompt are ours, so its first greedy token is."""
    first = llama_cpp.next_tokens(ids)
    ours = expected[-1].log_softmax(-1)
    assert max(first, key=first.__getitem__) == int(ours.argmax())
    assert max(abs(ours[token].item() - value) for token, value in first.items()) < 2e-3


def make_noise_in_norms(base: Path) -> None:
    """Fresh norms are all ones or zeros, under which a forgotten offset or order would not show."""
    model = AutoModelForCausalLM.from_pretrained(base)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(base)


@pytest.mark.parametrize("number_format", ["f16", "bf16", "q8_0"])
def test_number_formats(base_model_dir: Path, tmp_path: Path, number_format: Any) -> None:
    expected = make_adapter(base_model_dir, tmp_path / "adapter")[0]
    result = run_export(
        base_model_dir, tmp_path / "adapter", "gguf-merged", tmp_path / "out", number_format=number_format
    )
    path = tmp_path / "out" / "export" / "model.gguf"
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds["blk.0.attn_q.weight"] == number_format.upper()
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    assert (logits(theirs)[0] - expected).norm() <= 0.05 * expected.norm()
    assert result.distance < result.moved

    run_export(base_model_dir, tmp_path / "adapter", "gguf-adapter", tmp_path / "lora", number_format=number_format)
    reader = gguf.GGUFReader(tmp_path / "lora" / "export" / "adapter.gguf")
    assert [reader.get_field(key).contents() for key in ("general.type", "adapter.type")] == ["adapter", "lora"]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    # A row of B is as long as the rank, 4, which no block of q8_0 is.
    fallback = "F16" if number_format == "q8_0" else number_format.upper()
    assert kinds["blk.1.ffn_up.weight.lora_a"] == number_format.upper()
    assert kinds["blk.1.ffn_up.weight.lora_b"] == fallback


TEXTS = [
    "bathe the thing, in the   air: <|im_start|>user\nthat's 12345 + 6<|im_end|>\n",
    "Grüße – naïve café 🙂\t\tdon't  \n\n x=1;y_2",
]


@pytest.mark.parametrize("kind", ["byte-level", "digits", "llama 3", "qwen", "sentencepiece"])
def test_llama_cpp_cuts_text_as_training_did(tmp_path: Path, kind: str) -> None:
    base = make_tiny_model(tmp_path / "base")
    if kind == "sentencepiece":
        make_sentencepiece_tokenizer(base)
    else:
        make_tokenizer(base, split=kind)
    make_adapter(base, tmp_path / "adapter")
    run_export(base, tmp_path / "adapter", "gguf-merged", tmp_path / "out")
    path = tmp_path / "out" / "export" / "model.gguf"
    llama_cpp, ours = LlamaCpp(path), AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for text in TEXTS:
        ids = ours(text)["input_ids"]
        assert llama_cpp.count_tokens(text) == len(ids)
        first = llama_cpp.next_tokens(text)  # Other tokens would be continued otherwise.
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert max(abs(expected[token].item() - value) for token, value in first.items()) < 2e-3
    theirs = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert theirs.chat_template == ours.chat_template
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_token_id, ours.eos_token_id)


def test_llama_3_turns_as_transformers_does(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", rope_parameters=LLAMA3)
    model = load_base_model(base, dtype=torch.float32, device="cpu")
    factors = GgufSpelling(model.config).rope_factors()
    assert factors is not None
    size = 16
    plain = LLAMA3["rope_theta"] ** -(np.arange(0, size, 2) / size)  # type: ignore[operator]
    np.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    assert rope_of(model.config)["rope_type"] == "llama3"


@pytest.mark.parametrize(
    ("architecture", "shape", "message"),
    [
        ("gemma2", GEMMA | {"query_pre_attn_scalar": 64}, "attention is scaled by 64 instead of 256"),
        ("gemma3_text", GEMMA | {"layer_types": ["full_attention"] * 2}, "alternate as in gemma3_text"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "use sliding-window attention"),
        ("llama", {"rope_parameters": LLAMA3 | {"rope_type": "dynamic"}}, "positions are scaled by 'dynamic'"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    tmp_path: Path, architecture: str, shape: dict[str, Any], message: str
) -> None:
    base = make_tiny_model(tmp_path / "base", architecture=architecture, **shape)
    with pytest.raises(BadConfig, match=f"llama.cpp cannot compute this model: .*{message}.*`merged`"):
        GgufSpelling(read_config(base))


def test_an_unknown_way_to_split_text_is_refused(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    make_tokenizer(base, split="words")
    make_adapter(base, tmp_path / "adapter")
    with pytest.raises(BadConfig, match=r"tokenizer cannot be written for llama.cpp: it splits text by a pattern"):
        run_export(base, tmp_path / "adapter", "gguf-merged", tmp_path / "out")
