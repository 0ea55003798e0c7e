"""Prompt tuning: train only the embeddings of a few virtual tokens before every row.

    model([p₁ … p_P, e(t₁), e(t₂), …])

The embeddings start from real tokens by default, as starting from noise learns far worse (Lester et al., figure 3b).
Therefore a new adapter does change the model: it reads a few random words first.
Shape letters:  B rows,  T tokens,  P virtual tokens,  H hidden.
Source: Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", arXiv:2104.08691, section 2.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.virtual_tokens import (
    Inputs,
    VirtualTokens,
    VirtualTokensAdapter,
    input_embeddings,
    starting_ids,
)
from finetune_hub.engine.kernels.document_attention import document_lengths, documents
from finetune_hub.engine.transfer import send
from finetune_hub.spec.methods.virtual_tokens import PromptTuningMethod


class PromptTuningAdapter(VirtualTokensAdapter):
    """The trained embeddings of one model's virtual tokens."""

    method: PromptTuningMethod

    def __init__(self, model: PreTrainedModel, method: PromptTuningMethod, embeddings: Tensor) -> None:
        self.model, self.method = model, method
        self.prompt_embeddings = nn.Parameter(embeddings)  # (P, H), float32
        self.hooks = VirtualTokens(model, method.virtual_tokens, self._enter, self._leave)
        self._real: Tensor | None = None  # Positions of the real tokens in the current pass.

    @classmethod
    def attach(cls, model: PreTrainedModel, method: PromptTuningMethod, *, seed: int = 0) -> PromptTuningAdapter:
        """Freeze the model and add the virtual tokens before all its inputs.

        Raises:
            BadConfig: the model or the initial text does not fit the method.
        """
        model.requires_grad_(False)
        vocabulary = input_embeddings(model).weight.detach()
        if method.init == "random":
            generator = torch.Generator().manual_seed(seed)
            shape = (method.virtual_tokens, vocabulary.shape[1])
            start = torch.randn(shape, generator=generator).to(vocabulary.device) * vocabulary.float().std()
        else:
            start = vocabulary[starting_ids(model, method, seed).to(vocabulary.device)]
        adapter = cls(model, method, start.float().to(vocabulary.device))
        adapter.install()
        return adapter

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        return {"prompt_embeddings": self.prompt_embeddings}

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs."""
        return {**self.parameters()}

    def _enter(self, inputs: Inputs, scope: ExitStack) -> Inputs:
        count = self.method.virtual_tokens
        embeddings = inputs.get("inputs_embeds")
        if embeddings is None:
            embeddings = input_embeddings(self.model)(inputs["input_ids"])
        rows, tokens, _ = embeddings.shape
        prompt = self.prompt_embeddings.to(embeddings.dtype).expand(rows, -1, -1)
        lengths = document_lengths() or (tokens,)
        parts: list[Tensor] = []
        real = []
        for number, document in enumerate(embeddings.split(lengths, dim=1)):
            start = (number + 1) * count + sum(lengths[:number])
            real.append(torch.arange(start, start + lengths[number]))
            parts += [prompt, document]
        self._real = send(torch.cat(real), embeddings.device)
        inputs = inputs | {"input_ids": None, "inputs_embeds": torch.cat(parts, dim=1)}
        positions = inputs.get("position_ids")
        if positions is not None:
            virtual = torch.arange(count, device=positions.device).expand(positions.shape[0], -1)
            split = (positions + count).split(lengths, dim=1)
            inputs["position_ids"] = torch.cat([part for own in split for part in (virtual, own)], dim=1)
        if document_lengths():
            scope.enter_context(documents(tuple(count + length for length in lengths)))
        return inputs

    def _leave(self, hidden: Tensor) -> Tensor:
        assert self._real is not None
        return hidden.index_select(1, self._real)
