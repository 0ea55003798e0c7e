"""llama.cpp itself, in this process: what it makes of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


class LlamaCpp:
    """A model, with an adapter beside it or without. Keys and values are kept in float32, as ours are."""

    def __init__(self, model: Path, adapter: Path | None = None) -> None:
        xllamacpp = pytest.importorskip("xllamacpp")
        options = xllamacpp.CommonParams()
        options.model.path = str(model)
        options.n_ctx, options.n_parallel, options.n_gpu_layers = 256, 1, 0
        options.warmup = options.fit_params = False
        options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if adapter is not None:
            options.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        self._server = xllamacpp.Server(options)

    def next_tokens(self, prompt: list[int] | str) -> dict[int, float]:
        """The likeliest tokens behind the prompt, with their log probabilities."""
        answer = self._complete(prompt)
        first = answer["choices"][0]["logprobs"]["content"][0]
        return {entry["id"]: entry["logprob"] for entry in first["top_logprobs"]}

    def count_tokens(self, text: str) -> int:
        count: int = self._complete(text)["usage"]["prompt_tokens"]
        return count

    def _complete(self, prompt: list[int] | str) -> dict[str, Any]:
        request = {
            "prompt": prompt, "max_tokens": 1, "n_probs": 50, "cache_prompt": False,
            # The answer itself is forced: half a character would not be reported, nor its alternatives.
            "logit_bias": [["a", 1e4]],
        }  # fmt: skip
        answer: dict[str, Any] = self._server.handle_completions(request)
        return answer
