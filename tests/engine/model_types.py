"""What works on which model type: tiny random models, each trained a step, saved, read by PEFT, merged.

`make verify-full` runs all of them and writes docs/model-types.md; the ordinary test run takes some.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.merge import merge
from finetune_hub.engine.dataset import TokenRow
from finetune_hub.engine.methods import attach_method
from finetune_hub.engine.model import FastPaths, load_base_model, prove_fast_paths
from finetune_hub.engine.objectives.objective import Setting, backward
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.engine.peft import peft_format
from finetune_hub.spec.methods.low_rank import LoraMethod
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod, PromptTuningMethod

Shape = dict[str, Any]
MODERN: Shape = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLDER: Shape = {name: value for name, value in MODERN.items() if name != "num_key_value_heads"}
GPT: Shape = {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_ctx": 128} | {
    name: MODERN[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")
}
HEAD: Shape = {"head_dim": 16}
EXPERTS: Shape = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT: Shape = {
    "num_key_value_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}

# Each model type's tiny shape.
MODEL_TYPES: dict[str, Shape] = {
    "llama": MODERN,
    "mistral": MODERN,
    "mixtral": MODERN | {"num_local_experts": 4},
    "ministral": MODERN | HEAD,
    "qwen2": MODERN,
    "qwen2_moe": MODERN | EXPERTS | {"shared_expert_intermediate_size": 32},
    "qwen3": MODERN | HEAD,
    "qwen3_moe": MODERN | HEAD | EXPERTS,
    "gemma": MODERN | HEAD,
    "gemma2": MODERN | HEAD | {"query_pre_attn_scalar": 16},
    "gemma3_text": MODERN | HEAD | {"query_pre_attn_scalar": 16},
    "phi": OLDER,
    "phi3": MODERN,
    "phimoe": MODERN | {"num_local_experts": 4},
    "gpt2": GPT,
    "gpt_neo": {
        "vocab_size": 320,
        "hidden_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "max_position_embeddings": 128,
    },
    "gpt_neox": OLDER,
    "gpt_neox_japanese": OLDER | {"intermediate_multiple_size": 2},
    "gptj": GPT | {"rotary_dim": 8},
    "codegen": GPT | {"rotary_dim": 8},
    "gpt_bigcode": GPT,
    "falcon": {key: value for key, value in OLDER.items() if key != "intermediate_size"},
    "bloom": {"vocab_size": 320, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "opt": OLDER | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "mpt": {"vocab_size": 320, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 128},
    "biogpt": OLDER,
    "xglm": {"vocab_size": 320, "d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 96},
    "stablelm": MODERN,
    "olmo": MODERN,
    "olmo2": MODERN,
    "olmo3": MODERN,
    "olmoe": MODERN | {"num_experts": 4, "num_experts_per_tok": 2},
    "cohere": MODERN,
    "cohere2": MODERN,
    "granite": MODERN,
    "granitemoe": MODERN | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": MODERN | LATENT,
    "deepseek_v3": MODERN | LATENT | {"n_group": 2, "topk_group": 1},
    "starcoder2": MODERN,
    "smollm3": MODERN,
    "exaone4": MODERN,
    "glm": MODERN | HEAD,
    "glm4": MODERN | HEAD,
    "glm4_moe": MODERN | HEAD | EXPERTS | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    "nemotron": MODERN,
    "jetmoe": MODERN | {"kv_channels": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "helium": MODERN | HEAD,
    "gpt_oss": MODERN | HEAD | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "persimmon": OLDER,
    "arcee": MODERN,
    "ernie4_5": MODERN | HEAD,
    "seed_oss": MODERN | HEAD,
    "hunyuan_v1_dense": MODERN | HEAD,
    "lfm2": MODERN | {"full_attn_idxs": [1]},
    "mamba": {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    "rwkv": {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "attention_hidden_size": 64},
}
# Those of the ordinary test run.
ORDINARY = "llama mistral qwen2 qwen3 gemma2 phi3 gpt2 gpt_neo falcon bloom opt mixtral qwen3_moe gpt_oss".split()

# What cannot work, and why.
_TAKEN_FOR_EXPERTS = "PEFT 0.21 takes the dense layers' `gate_proj`, `up_proj` and `down_proj` for the experts'"
_NO_CACHE = "Its layers do not all keep keys and values, so nothing could stand in front of them"
_UNEQUAL = "Its keys and values differ in size, which PEFT's format for a prefix cannot say"
_FUSED = "PEFT refuses `out_proj`, whose weight Mamba's CUDA kernels read past the layer"
EXCEPTIONS: dict[str, dict[str, str]] = {
    "deepseek_v2": {"PEFT reads ours": _TAKEN_FOR_EXPERTS, "prefix tuning": _UNEQUAL},
    "deepseek_v3": {"PEFT reads ours": _TAKEN_FOR_EXPERTS, "prefix tuning": _UNEQUAL},
    "glm4_moe": {"PEFT reads ours": _TAKEN_FOR_EXPERTS},
    "lfm2": {"prefix tuning": _NO_CACHE},
    "mamba": {"PEFT reads ours": _FUSED, "we read PEFT's": _FUSED, "prefix tuning": _NO_CACHE},
    "phimoe": {"we read PEFT's": "PEFT puts LoRA beside the router too, a layer that computes something else"},
    "rwkv": {"prefix tuning": _NO_CACHE},
}

STEPS = ["train a step", "PEFT reads ours", "we read PEFT's", "merge agrees", "prompt tuning", "prefix tuning"]
IDS = torch.arange(16)[None] * 7 % 256 + 3


def try_model_type(model_type: str, folder: Path) -> dict[str, str]:
    """What works: each of `STEPS` → "yes" or why not; `packed` tells whether rows share a pass; all under `folder`."""
    base = write_base(model_type, folder / "base")
    outcome: dict[str, str] = {}
    state: dict[str, Any] = {}

    def attempt(step: str, work: Callable[[], None]) -> None:
        try:
            work()
            outcome[step] = "yes"
        except Exception as error:  # noqa: BLE001 — the table names every reason.
            outcome[step] = f"no: {str(error).strip().splitlines()[0][:160]}"

    def train_a_step() -> None:
        model = _load(base)
        paths = prove_fast_paths(model)
        outcome["packed"] = "yes" if paths.packed else "row by row"
        adapter = LoraAdapter.attach(model, LoraMethod(rank=4, alpha=8, target_parameters=_expert_parameters(model)))
        _stir(adapter)
        rows = [_row(9), _row(14)]
        before = backward(Sft(Setting(model, paths)), rows, 20)[0]
        parameters = list(adapter.parameters().values())
        used = [parameter for parameter in parameters if parameter.grad is not None]
        assert len(used) > len(parameters) // 2, "most of the adapter gets no gradient"
        torch.optim.SGD(used, lr=1e-3).step()
        model.zero_grad()
        after = backward(Sft(Setting(model, paths)), rows, 20)[0]
        assert after < before, f"the loss went from {float(before):.4f} to {float(after):.4f}"
        model.set_attn_implementation("sdpa" if paths.packed else model.config._attn_implementation)
        peft_format.write_adapter(folder / "ours", adapter, base_model_name="tiny")
        state.update(model=model, adapter=adapter, logits=_logits(model))

    def peft_reads_ours() -> None:
        from peft import PeftModel

        _agree(_logits(PeftModel.from_pretrained(_load(base), folder / "ours")), state["logits"])

    def we_read_pefts() -> None:
        from peft import LoraConfig, get_peft_model

        model = _load(base)
        config = LoraConfig(
            r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM",
            target_parameters=_expert_parameters(model),
        )  # fmt: skip
        theirs = get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
        theirs.save_pretrained(folder / "theirs", save_embedding_layers=False)
        ours = _load(base)
        peft_format.attach_adapter(ours, folder / "theirs")
        _agree(_logits(ours), _logits(theirs))

    def merge_agrees() -> None:
        merge(state["adapter"])
        _agree(_logits(state["model"]), state["logits"])

    for step, work in zip(STEPS, (train_a_step, peft_reads_ours, we_read_pefts, merge_agrees), strict=False):
        attempt(step, work)
    attempt("prompt tuning", lambda: _try_virtual_tokens(base, PromptTuningMethod(virtual_tokens=3), folder / "prompt"))
    attempt("prefix tuning", lambda: _try_virtual_tokens(base, PrefixTuningMethod(virtual_tokens=3), folder / "prefix"))
    shutil.rmtree(folder)
    return outcome


def _try_virtual_tokens(base: Path, method: PromptTuningMethod | PrefixTuningMethod, folder: Path) -> None:
    """One step lowers the loss, rows do not see each other, and PEFT computes the same from the files."""
    from peft import PeftModel

    model = _load(base)
    adapter = attach_method(model, method)
    peft_format.write_adapter(folder, adapter, base_model_name="tiny")
    fresh = _logits(model)
    paths = prove_fast_paths(model)
    rows = [_row(9), _row(14)]
    before = backward(Sft(Setting(model, paths)), rows, 20)[0]
    optimizer = torch.optim.AdamW(list(adapter.parameters().values()), lr=1e-3)
    optimizer.step()
    after = backward(Sft(Setting(model, paths)), rows, 20)[0]
    assert after < before, f"the loss went from {float(before):.4f} to {float(after):.4f}"
    alone = backward(Sft(Setting(model, FastPaths(packed=False, plain_head=False))), rows, 20)[0]
    assert abs(float(after - alone)) < 1e-4, "rows see each other"
    _agree(_logits(PeftModel.from_pretrained(_load(base), folder).eval())[:, -IDS.shape[1] :], fresh)


def table(outcomes: dict[str, dict[str, str]]) -> str:
    """docs/model-types.md."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    works = sum(all(outcome[step] == "yes" for step in STEPS) for outcome in outcomes.values())
    lines = [
        "# Model types",
        "",
        "Tiny random models of each type, in float32 on a CPU. The first four columns are LoRA's, on linear layers and",
        "on a mixture's experts; the last two train a step, pack rows, and are read by PEFT. Logits agree within",
        "1e-4 of the largest. `make verify-full` wrote this table with",
        f"{versions}. {works} of {len(outcomes)} types pass everything.",
        "",
        "*Packed*: LoRA's rows share a pass, each attending to itself alone; otherwise each row is a pass of its own.",
        "",
        f"| model type | {' | '.join(STEPS)} | packed |",
        f"|---|{'---|' * (len(STEPS) + 1)}",
    ]
    reasons: list[str] = []
    for model_type, outcome in outcomes.items():
        cells = []
        for step in STEPS:
            if outcome[step] == "yes":
                cells.append("yes")
                continue
            reason = EXCEPTIONS.get(model_type, {}).get(step, outcome[step])
            if reason not in reasons:
                reasons.append(reason)
            cells.append(f"no ({reasons.index(reason) + 1})")
        lines.append(f"| {model_type} | {' | '.join(cells)} | {outcome.get('packed', '')} |")
    return "\n".join([*lines, "", *(f"{number}. {reason}." for number, reason in enumerate(reasons, 1)), ""])


def write_base(model_type: str, folder: Path) -> Path:
    config = AutoConfig.for_model(model_type, **MODEL_TYPES[model_type])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        # A random model's logits are nearly flat: larger matrices make differences visible.
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() >= 2:
                    weight.mul_(3)
    model.save_pretrained(folder)
    return folder


def _load(folder: Path) -> PreTrainedModel:
    return load_base_model(folder, dtype=torch.float32, device="cpu")


def _expert_parameters(model: PreTrainedModel) -> list[str] | None:
    """The three-dimensional parameters of a mixture's experts, by the ends of their paths."""
    stacks = [path for path, parameter in model.named_parameters() if parameter.dim() == 3 and len(parameter) > 1]
    return sorted({".".join(path.split(".")[-2:]) for path in stacks if "conv" not in path}) or None


@torch.no_grad()
def _stir(adapter: LoraAdapter) -> None:
    generator = torch.Generator().manual_seed(1)
    for layer in adapter.layers.values():
        layer.lora_b.normal_(std=0.05, generator=generator)


def _row(tokens: int) -> TokenRow:
    ids = torch.arange(tokens, dtype=torch.int32) * 11 % 256 + 3
    return TokenRow(str(tokens), ids, torch.arange(2, tokens - 1, dtype=torch.int32), 0)


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def _agree(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = float((ours - theirs).abs().max())
    assert difference <= 1e-4 * max(1.0, float(theirs.abs().max())), f"logits differ by {difference:.2g}"
