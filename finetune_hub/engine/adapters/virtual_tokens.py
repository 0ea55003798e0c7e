"""Virtual tokens before every row, invisible to callers: the shared part of prompt and prefix tuning.

    real row       t₁ t₂ …                positions 0 1 …
    seen inside    v₁ … v_P t₁ t₂ …       positions 0 … P−1, P P+1 …

Hooks on the model's inner transformer change its inputs (tokens, positions, mask, cache) and trim its outputs, so that
the training loop, the losses and `generate` work as with the base model. During generation only the first pass adds the
virtual tokens; later ones find them in the cache.
Shape letters:  B rows,  T real tokens,  P virtual tokens,  H hidden.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.methods.virtual_tokens import VirtualTokensMethod

Inputs = dict[str, Any]


class VirtualTokens:
    """The hooks of one adapter on one model.

    Args:
        enter: Adds the virtual tokens to the inputs of a first pass. Contexts that it enters are exited after the
            pass.
            leave: Returns the hidden states of the real tokens only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        count: int,
        enter: Callable[[Inputs, ExitStack], Inputs],
        leave: Callable[[Tensor], Tensor],
    ) -> None:
        self.decoder = decoder_of(model)
        self.enabled = True
        self._count, self._enter, self._leave = count, enter, leave
        self._names = list(inspect.signature(self.decoder.forward).parameters)
        self._pass = ExitStack()
        self._is_first_pass = False
        self._hooks: list[Any] = []

    def install(self) -> None:
        self._hooks = [
            self.decoder.register_forward_pre_hook(self._before, with_kwargs=True),
            self.decoder.register_forward_hook(self._after, always_call=True),
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Disable the virtual tokens inside the context."""
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def _before(self, _: nn.Module, args: tuple[Any, ...], kwargs: Inputs) -> tuple[tuple[Any, ...], Inputs] | None:
        if not self.enabled:
            return None
        inputs = dict(zip(self._names, args, strict=False)) | kwargs
        cache = inputs.get(cache_name(self.decoder))
        self._is_first_pass = cache is None or cache.get_seq_length() == 0
        mask = inputs.get("attention_mask")
        if mask is not None:
            inputs["attention_mask"] = torch.cat([mask.new_ones(mask.shape[0], self._count), mask], dim=1)
        if self._is_first_pass:
            inputs = self._enter(inputs, self._pass)
        elif inputs.get("position_ids") is not None:
            inputs["position_ids"] = inputs["position_ids"] + self._count
        return (), inputs

    def _after(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        self._pass.close()
        if self.enabled and self._is_first_pass and output is not None:
            output.last_hidden_state = self._leave(output.last_hidden_state)
        return output


class VirtualTokensAdapter:
    """The base class of both methods' adapters: install, remove and disable through the hooks."""

    model: PreTrainedModel
    method: VirtualTokensMethod
    hooks: VirtualTokens

    def install(self) -> None:
        """Install the hooks."""
        self.hooks.install()

    def remove(self) -> None:
        """Restore the model as it was."""
        self.hooks.remove()

    def disabled(self) -> AbstractContextManager[None]:
        """Disable the virtual tokens inside the context."""
        return self.hooks.disabled()

    def learning_rate_factor(self, _: str) -> float:
        return 1.0


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the transformer without its head, as the model with the head calls it (OPT skips a level).

    Raises:
        BadConfig: the model has no separate transformer.
    """
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    if decoder is model:
        raise BadConfig(
            f"{type(model).__name__} has its transformer and its head in one module.", "Train with LoRA instead."
        )
    assert isinstance(decoder, PreTrainedModel)
    return decoder


def input_embeddings(model: PreTrainedModel) -> nn.Embedding:
    """Return the module of the model's token embeddings, including any scaling."""
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    return embeddings


def cache_name(decoder: nn.Module) -> str:
    """Return the name of the cache argument in the installed version of transformers."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def starting_ids(model: PreTrainedModel, method: VirtualTokensMethod, seed: int) -> Tensor:
    """Return the ids (P,) of the real tokens that the virtual ones start from.

    Raises:
        BadConfig: `init: text` with a model without tokenizer.json, or a text without tokens.
    """
    if method.init != "text":
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(len(input_embeddings(model).weight), (method.virtual_tokens,), generator=generator)
    path = Path(model.name_or_path or ".") / "tokenizer.json"
    if not path.is_file():
        raise BadConfig(
            "`init: text` needs the base model's tokenizer.json.", "Import it, or use `init: sample_vocab`."
        )
    assert method.init_text is not None
    ids = torch.tensor(Tokenizer.from_file(str(path)).encode(method.init_text, add_special_tokens=False).ids)
    if not len(ids):
        raise BadConfig("`init_text` has no tokens.", "Describe the task in a sentence.")
    return ids.repeat(-(-method.virtual_tokens // len(ids)))[: method.virtual_tokens]
