"""The badges: what is known about serving an adapter before it is trained. The engine's exports agree with them."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_hub.spec.compatibility import GGUF_MODEL_TYPES, compatibility_of
from finetune_hub.spec.methods.registry import METHODS

PLAIN = {"PEFT": "yes", "vLLM": "yes", "llama.cpp": "export", "LoRAX": "yes"}
PEFT_ALONE = {"PEFT": "yes", "vLLM": "no", "llama.cpp": "no", "LoRAX": "no"}


@pytest.mark.parametrize(
    ("method", "model_type", "expected"),
    [
        ({"type": "lora"}, "llama", PLAIN),
        ({"type": "qlora", "use_rslora": True}, "qwen3", PLAIN),
        ({"type": "lora"}, None, PLAIN),
        ({"type": "lora"}, "phi3", PLAIN | {"llama.cpp": "no"}),
        ({"type": "lora", "rank_pattern": {"q_proj": 4}}, "llama", PLAIN | {"vLLM": "export", "LoRAX": "export"}),
        ({"type": "lora", "alpha_pattern": {"q_proj": 4}}, "gemma2", PLAIN | {"vLLM": "export", "LoRAX": "export"}),
        ({"type": "lora", "rank": 512}, "llama", PLAIN),
        ({"type": "lora", "rank": 300, "init_weights": "pissa"}, "llama", PLAIN | {"vLLM": "no"}),
        ({"type": "lora", "use_dora": True}, "llama", PEFT_ALONE),
        ({"type": "lora", "target_modules": ["q_proj", "embed_tokens"]}, "llama", PEFT_ALONE),
        ({"type": "lora", "target_parameters": ["gate_up_proj"]}, "mixtral", PEFT_ALONE),
        ({"type": "prompt_tuning"}, "llama", PEFT_ALONE),
        ({"type": "prefix_tuning"}, "llama", PEFT_ALONE),
    ],
)
def test_each_program_answers(method: dict[str, Any], model_type: str | None, expected: dict[str, str]) -> None:
    answers = compatibility_of(METHODS[method["type"]].model_validate(method), model_type)
    assert {answer.program: answer.answer for answer in answers} == expected
    for answer in answers:
        assert answer.reason.endswith(".")
        assert (answer.export_format is not None) == (answer.answer == "export")


def test_a_no_names_its_cause() -> None:
    dora = compatibility_of(METHODS["lora"].model_validate({"type": "lora", "use_dora": True}), "llama")
    assert all("DoRA" in answer.reason for answer in dora[1:])
    wide = compatibility_of(METHODS["lora"].model_validate({"type": "lora", "rank": 64}), "llama")
    assert "--max-lora-rank 64" in wide[1].reason


@pytest.mark.needs_torch
def test_the_families_are_those_that_the_engine_writes() -> None:
    from finetune_hub.engine.exports.gguf_family import FAMILIES

    assert set(GGUF_MODEL_TYPES) == set(FAMILIES)
