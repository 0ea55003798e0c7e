"""Prefix tuning: train keys and values that precede every row's own, in each layer.

    attention(q, [K_prefix, K], [V_prefix, V])                K_prefix, V_prefix  (layers, heads, P, D)

The prefix is initialised with the model's keys and values for P real tokens, like a short text before the row; starting
from noise learns worse (section 7.4). With `prefix_projection` it is that start plus the output of a small network,
W₂ tanh(W₁ e + b₁) + b₂, whose last layer starts at zero; the network is dropped when the adapter is saved.
For grouped-query models, heads here are key heads.
Shape letters:  B rows,  T tokens,  P virtual tokens,  L layers,  K key heads,  D head_dim.
Source: Li and Liang, "Prefix-Tuning", arXiv:2101.00190, sections 4.2 and 4.3.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin

from finetune_hub.engine.adapters.virtual_tokens import (
    Inputs,
    VirtualTokens,
    VirtualTokensAdapter,
    cache_name,
    decoder_of,
    starting_ids,
)
from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod


@dataclass(frozen=True)
class PrefixShape:
    """The shape of one virtual token."""

    layers: int
    heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """Number of values per virtual token: a key and a value for each layer."""
        return self.layers * 2 * self.token_dim

    @property
    def token_dim(self) -> int:
        return self.heads * self.head_dim


class PrefixTuningAdapter(VirtualTokensAdapter):
    """The trained prefix of one model."""

    method: PrefixTuningMethod

    def __init__(
        self, model: PreTrainedModel, method: PrefixTuningMethod, shape: PrefixShape, start: Tensor, seed: int
    ) -> None:
        self.model, self.method, self.shape = model, method, shape
        self.start: Tensor | None = None
        if method.prefix_projection:
            self.start = start  # (P, L·2·K·D), constant
            self.projection = _projection(method, shape, seed).to(start.device)
        else:
            self.prefix_embeddings = nn.Parameter(start)  # (P, L·2·K·D), float32
        self.hooks = VirtualTokens(model, method.virtual_tokens, self._enter, lambda hidden: hidden)
        self._cache_name = cache_name(self.hooks.decoder)

    @classmethod
    def attach(cls, model: PreTrainedModel, method: PrefixTuningMethod, *, seed: int = 0) -> PrefixTuningAdapter:
        """Freeze the model and add the prefix before all its inputs.

        Raises:
            BadConfig: the model's layers do not all have keys and values of the same shape.
        """
        model.requires_grad_(False)
        shape, start = _keys_and_values(model, starting_ids(model, method, seed))
        if method.init == "random":
            generator = torch.Generator().manual_seed(seed)
            start = torch.randn(start.shape, generator=generator).to(start.device) * start.std()
        adapter = cls(model, method, shape, start, seed)
        adapter.install()
        return adapter

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters by name."""
        if self.start is None:
            return {"prefix_embeddings": self.prefix_embeddings}
        return {f"projection.{name}": parameter for name, parameter in self.projection.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs: the parameters, and the start of a projected prefix."""
        return {**self.parameters()} if self.start is None else {**self.parameters(), "start": self.start}

    def prefix(self) -> Tensor:
        """Return (P, L·2·K·D): the key, then the value of each layer."""
        if self.start is None:
            return self.prefix_embeddings
        projected: Tensor = self.projection(torch.arange(self.method.virtual_tokens, device=self.start.device))
        return self.start + projected

    def _enter(self, inputs: Inputs, _: ExitStack) -> Inputs:
        tokens = inputs["input_ids"] if inputs.get("input_ids") is not None else inputs["inputs_embeds"]
        rows, shape = tokens.shape[0], self.shape
        prefix = self.prefix().to(self.model.dtype).view(-1, shape.layers * 2, shape.heads, shape.head_dim)
        layers = prefix.permute(1, 2, 0, 3)[:, None].expand(-1, rows, -1, -1, -1)  # (L·2, B, K, P, D)
        pairs = list(zip(layers[0::2], layers[1::2], strict=True))
        generated = inputs.get(self._cache_name)
        if generated is None:
            inputs[self._cache_name] = Cache(layers=[_PrefixLayer(key, value) for key, value in pairs])
        else:
            for index, (key, value) in enumerate(pairs):
                generated.update(key, value, index)
        if inputs.get("position_ids") is not None:
            inputs["position_ids"] = inputs["position_ids"] + self.method.virtual_tokens
        return inputs


class _PrefixLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """A cache layer of fixed size: each pass gets the prefix and its own keys, even if it is recomputed."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None: ...

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return torch.cat([self.keys, key_states], dim=2), torch.cat([self.values, value_states], dim=2)

    def get_mask_sizes(self, query: int | Tensor) -> tuple[int, int]:
        """Return the number of keys and their start; older releases of transformers 5 pass positions, newer a count."""
        return self.get_seq_length() + (query if isinstance(query, int) else len(query)), 0

    def get_seq_length(self) -> int:
        assert self.keys is not None
        return self.keys.shape[2]

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # The older name.


def _projection(method: PrefixTuningMethod, shape: PrefixShape, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Embedding(method.virtual_tokens, shape.token_dim),
            nn.Linear(shape.token_dim, method.projection_hidden_size),
            nn.Tanh(),
            nn.Linear(method.projection_hidden_size, shape.width),
        )
    last = network[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return network


@torch.no_grad()
def _keys_and_values(model: PreTrainedModel, input_ids: Tensor) -> tuple[PrefixShape, Tensor]:
    """Return the shape of the model's cache, and its content for these tokens as (P, L·2·K·D) in float32."""
    decoder = decoder_of(model)
    cache: Any = DynamicCache(config=model.config)
    was_training = decoder.training
    nn.Module.eval(decoder)
    decoder(**{"input_ids": input_ids[None].to(model.device), "use_cache": True, cache_name(decoder): cache})
    decoder.train(was_training)
    pairs = [(layer.keys, layer.values) for layer in cache.layers if getattr(layer, "keys", None) is not None]
    shapes = {tuple(tensor.shape) for pair in pairs for tensor in pair}
    if len(shapes) != 1 or len(pairs) != model.config.get_text_config().num_hidden_layers:
        raise BadConfig(
            f"A prefix needs keys and values of one shape in all layers, which {type(model).__name__} does not have.",
            "Train with LoRA or prompt tuning instead.",
        )
    stacked = torch.stack([tensor[0] for pair in pairs for tensor in pair])  # (L·2, K, P, D)
    _, heads, tokens, head_dim = stacked.shape
    shape = PrefixShape(len(pairs), heads, head_dim)
    return shape, stacked.permute(2, 0, 1, 3).reshape(tokens, -1).float().contiguous()
