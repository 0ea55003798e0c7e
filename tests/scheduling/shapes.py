"""Well-known models and specs for the planner's tests: the shapes are their papers', the weights are not needed."""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.shape import ModelFacts, Shape
from finetune_hub.spec.training import TrainingSpec


def llama(parameters: int, layers: int, hidden: int, inner: int, heads: int, **facts: Any) -> Shape:
    """A Llama in float16, as Meta published it."""
    known: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "parameter_count": parameters,
        "layers": layers,
        "hidden_size": hidden,
        "heads": heads,
        "kv_heads": heads,
        "head_dim": hidden // heads,
        "intermediate_size": inner,
        "context_length": 4096,
        "vocabulary_size": 32000,
        "tied_head": False,
        "dtype": "float16",
        "size_bytes": 2 * parameters,
        "chat_template_sha256": None,
        "license": None,
    }
    return Shape(ModelFacts(**known | facts))


LLAMAS = {
    "7B": llama(6_738_415_616, 32, 4096, 11008, 32),
    "13B": llama(13_015_864_320, 40, 5120, 13824, 40),
    "33B": llama(32_528_943_616, 60, 6656, 17920, 52),
    "65B": llama(65_285_660_672, 80, 8192, 22016, 64),
    "70B": llama(68_976_648_192, 80, 8192, 28672, 64, kv_heads=8),
}


def spec(
    method: str = "lora", *, rank: int = 16, runtime: dict[str, Any] | None = None, **training: Any
) -> TrainingSpec:
    """One row of 512 tokens at a time, activations made anew: how large models are tuned on one card."""
    options = {"micro_batch_size": 1, "gradient_accumulation_steps": 16, "max_seq_len": 512}
    return TrainingSpec.model_validate(
        {
            "base_model": "llama",
            "datasets": [{"name": "oasst1"}],
            "method": {"type": method} if method.endswith("tuning") else {"type": method, "rank": rank},
            "training": options | training,
            "runtime": {"activation_checkpointing": True} if runtime is None else runtime,
        }
    )
