"""NEFTune: noise on the input embeddings during training.

    x ← x + u · alpha / √(L · H),    u uniform in ±1

Shape letters:  T tokens (packed),  L tokens of a token's row,  H hidden.
Source: Jain et al., "NEFTune", arXiv:2310.05914, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from finetune_hub.engine.transfer import send


@contextmanager
def noisy_embeddings(model: PreTrainedModel, alpha: float, lengths: Sequence[int]) -> Iterator[None]:
    """Add noise to embeddings in training passes with gradients inside; with alpha 0 nothing changes."""
    if not alpha or not model.training:
        yield
        return

    def add_noise(_module: Any, _inputs: Any, embedded: Tensor) -> Tensor:  # (1, T, H)
        if not torch.is_grad_enabled():
            return embedded
        strength = torch.tensor([alpha / (length * embedded.shape[-1]) ** 0.5 for length in lengths])
        per_token = send(strength.repeat_interleave(torch.tensor(lengths)).to(embedded.dtype), embedded.device)
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * per_token[:, None]

    embeddings = model.get_input_embeddings()
    hook = embeddings.register_forward_hook(add_noise)
    try:
        yield
    finally:
        hook.remove()
