"""Which programs can serve an adapter: known from its settings before a single step is trained.

    PEFT        everything that is trained here
    vLLM        LoRA on linear layers: one scale, equal ranks of at most 512, no DoRA
    llama.cpp   LoRA on linear layers of the families that GGUF is written for, no DoRA
    LoRAX       LoRA on linear layers: one scale, equal ranks, no DoRA

What differs by layer in rank or scale is made equal by the portable export, exactly: see `engine.exports.export`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from finetune_hub.spec.methods.method import Method

ServingProgram = Literal["PEFT", "vLLM", "llama.cpp", "LoRAX"]
Answer = Literal["yes", "export", "no"]

# Types of base models, as their config.json calls them, that the engine writes GGUF for.
GGUF_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
VLLM_LARGEST_RANK = 512


@dataclass(frozen=True)
class Compatibility:
    """Whether one program can serve one adapter."""

    program: ServingProgram
    answer: Answer
    reason: str
    """A sentence for people; where the answer is no, with the way out."""
    export_format: str | None = None
    """The format to export first, where the answer is `export`."""


def compatibility_of(method: Method, model_type: str | None) -> list[Compatibility]:
    """Each program's answer for the method, over a base model of the type; None: it is not known yet."""
    peft = Compatibility("PEFT", "yes", "It reads the adapter as it is published.")
    if (obstacle := method.obstacle_to_serving) is not None:
        return [peft, *(Compatibility(program, "no", obstacle) for program in ("vLLM", "llama.cpp", "LoRAX"))]
    return [peft, _vllm(method), _llama_cpp(model_type), _multi_lora(method, "LoRAX")]


def _vllm(method: Method) -> Compatibility:
    rank = method.largest_saved_rank
    if rank > VLLM_LARGEST_RANK:
        return Compatibility(
            "vLLM", "no", f"Its largest rank is {VLLM_LARGEST_RANK} and this adapter's is {rank}: lower it, or merge."
        )
    return _multi_lora(method, "vLLM")


def _multi_lora(method: Method, program: ServingProgram) -> Compatibility:
    if not method.is_even:
        reason = "It knows one rank and one scale for all layers; the portable export makes them equal."
        return Compatibility(program, "export", reason, "portable")
    flag = f" Start it with --max-lora-rank {method.largest_saved_rank} or more." if program == "vLLM" else ""
    return Compatibility(program, "yes", f"All layers share one rank and one scale, as it wants.{flag}")


def _llama_cpp(model_type: str | None) -> Compatibility:
    if model_type is None:
        reason = f"If the base model is one of {', '.join(GGUF_MODEL_TYPES)}: it reads GGUF."
        return Compatibility("llama.cpp", "export", reason, "gguf-adapter")
    if model_type not in GGUF_MODEL_TYPES:
        reason = (
            f"GGUF is written for the llama, mistral, qwen and gemma families, and this base model is {model_type}."
        )
        return Compatibility("llama.cpp", "no", f"{reason} Convert a merged export with its own tools.")
    return Compatibility("llama.cpp", "export", "It reads GGUF, which the export writes.", "gguf-adapter")
