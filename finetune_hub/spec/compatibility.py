"""Which programs can serve an adapter, derived from its settings before training starts.

    PEFT        every adapter that the hub trains
    vLLM        LoRA on linear layers: one scale, equal ranks of at most 512, no DoRA
    llama.cpp   LoRA on linear layers of the families with GGUF export, no DoRA
    LoRAX       LoRA on linear layers: one scale, equal ranks, no DoRA

The portable export makes ranks and scales equal across layers, without approximation: see `engine.exports.export`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune_hub.spec.methods.method import Method

ServingProgram = Literal["PEFT", "vLLM", "llama.cpp", "LoRAX"]
Answer = Literal["yes", "export", "no"]

# The `model_type`s in config.json for which the engine can write GGUF.
GGUF_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
VLLM_LARGEST_RANK = 512


@dataclass(frozen=True)
class Compatibility:
    """Whether one program can serve one adapter."""

    program: ServingProgram
    answer: Answer
    reason: str
    """A sentence for people; if the answer is `no`, it includes an alternative."""
    export_format: str | None = None
    """The format to export first, if the answer is `export`."""


def compatibility_of(method: Method, model_type: str | None) -> list[Compatibility]:
    """Return each program's answer for the method on a base model of this type (None: not known yet)."""
    peft = Compatibility("PEFT", "yes", "PEFT loads the published adapter as it is.")
    if (obstacle := method.obstacle_to_serving) is not None:
        return [peft, *(Compatibility(program, "no", obstacle) for program in ("vLLM", "llama.cpp", "LoRAX"))]
    return [peft, _vllm(method), _llama_cpp(model_type), _multi_lora(method, "LoRAX")]


def _vllm(method: Method) -> Compatibility:
    rank = method.largest_saved_rank
    if rank > VLLM_LARGEST_RANK:
        return Compatibility(
            "vLLM",
            "no",
            f"vLLM supports ranks up to {VLLM_LARGEST_RANK}, and this adapter's is {rank}. Lower it, or merge.",
        )
    return _multi_lora(method, "vLLM")


def _multi_lora(method: Method, program: ServingProgram) -> Compatibility:
    if not method.is_even:
        reason = "It needs one rank and one scale for all layers. The portable export makes them equal."
        return Compatibility(program, "export", reason, "portable")
    flag = f" Start it with --max-lora-rank {method.largest_saved_rank} or more." if program == "vLLM" else ""
    return Compatibility(program, "yes", f"All layers share one rank and one scale, as required.{flag}")


def _llama_cpp(model_type: str | None) -> Compatibility:
    if model_type is None:
        reason = f"It reads GGUF, which can be exported for base models of type {', '.join(GGUF_MODEL_TYPES)}."
        return Compatibility("llama.cpp", "export", reason, "gguf-adapter")
    if model_type not in GGUF_MODEL_TYPES:
        reason = f"GGUF export supports the llama, mistral, qwen and gemma families; this base model is {model_type}."
        return Compatibility("llama.cpp", "no", f"{reason} Convert a merged export with llama.cpp's own tools.")
    return Compatibility("llama.cpp", "export", "It reads GGUF, which the hub can export.", "gguf-adapter")
