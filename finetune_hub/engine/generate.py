"""Greedy generation for a batch of prompts, padded on the left so that all answers start at the same position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel


@torch.inference_mode()
def generate(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, stop_ids: Sequence[int], max_new_tokens: int
) -> list[list[int]]:
    """Return the greedy continuation of each prompt, without its stop token.

    Args:
        prompts: Token ids; lengths may differ, but batches of similar lengths are fastest.
        stop_ids: Ids that end an answer.
    """
    width = max(map(len, prompts))
    pad_id = stop_ids[0]
    input_ids = torch.tensor([[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    settings = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=list(stop_ids), pad_token_id=pad_id, use_cache=True
    )
    output = model.generate(  # type: ignore[operator]
        input_ids=input_ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
    )
    return [_until_stop(answer, set(stop_ids)) for answer in output[:, width:].tolist()]


def _until_stop(ids: list[int], stop_ids: set[int]) -> list[int]:
    for index, id_ in enumerate(ids):
        if id_ in stop_ids:
            return ids[:index]
    return ids
