"""Several adapters for one base model in memory: switch between them, mix them in a batch, or combine them.

Inactive adapters are removed from the model, so they do not affect the base model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.adapters.combine import Combination, combined_factors
from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.peft import peft_format
from finetune_hub.spec.methods.low_rank import LoraMethod


class AdapterSet:
    """The adapters of one model, by name; at most one is active."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.adapters: dict[str, Adapter] = {}
        self.active: str | None = None

    def load(self, name: str, folder: Path) -> Adapter:
        """Read an adapter's files and store it under the name, inactive.

        Raises:
            BadConfig: the name is taken, or the files do not fit the model.
        """
        if name in self.adapters:
            raise BadConfig(f"There is an adapter {name!r} already.", "Choose another name.")
        with self._bare():
            adapter = peft_format.attach_adapter(self.model, folder)
            adapter.remove()
        self.adapters[name] = adapter
        return adapter

    def switch(self, name: str | None) -> None:
        """Make one adapter active, or none.

        Raises:
            BadConfig: there is no such adapter.
        """
        if name is not None:
            self._named(name)
        if self.active is not None:
            self.adapters[self.active].remove()
        if name is not None:
            self.adapters[name].install()
        self.active = name

    def unload(self, name: str) -> None:
        """Remove an adapter."""
        self._named(name)
        if self.active == name:
            self.switch(None)
        del self.adapters[name]

    @contextmanager
    def mixed(self, rows: Sequence[str | None]) -> Iterator[None]:
        """Inside the context, compute row i of every batch with the adapter rows[i], or with the base model if None.

        Raises:
            BadConfig: an adapter is not LoRA on layers; inside the context, a layer does not see rows.
        """
        groups: dict[str | None, list[int]] = {}
        for index, name in enumerate(rows):
            groups.setdefault(name, []).append(index)
        chosen = {name: self._lora(name) for name in groups if name is not None}
        with self._bare():
            paths = {path for adapter in chosen.values() for path in adapter.replacements}
            base = {path: self.model.get_submodule(path) for path in paths}
            for path, module in base.items():
                layers: list[tuple[nn.Module, list[int]]] = []
                for name, indices in groups.items():
                    own = None if name is None else chosen[name].replacements.get(path)
                    layers.append((module if own is None else own, indices))
                self.model.set_submodule(path, _MixedLayer(path, layers))
            for adapter in chosen.values():
                adapter.enable(True)
            try:
                yield
            finally:
                for adapter in chosen.values():
                    adapter.enable(False)
                for path, module in base.items():
                    self.model.set_submodule(path, module)

    def combine(
        self,
        name: str,
        weights: dict[str, float],
        how: Combination = "cat",
        *,
        rank: int | None = None,
        density: float = 0.5,
        seed: int = 0,
    ) -> LoraAdapter:
        """Combine several adapters into a new one, inactive. See `combine` for the methods.

        Raises:
            BadConfig: the name is taken, or the adapters cannot be combined this way.
        """
        if name in self.adapters:
            raise BadConfig(f"There is an adapter {name!r} already.", "Choose another name.")
        sources = {source: self._lora(source) for source in weights}
        factors = combined_factors(sources, weights, how, rank=rank, density=density, seed=seed)
        largest = max(lora_a.shape[0] for lora_a, _ in factors.values())
        ranks = {re.escape(path): lora_a.shape[0] for path, (lora_a, _) in factors.items()}
        smaller = {path: own for path, own in ranks.items() if own < largest}
        method = LoraMethod(
            rank=largest,
            alpha=float(largest),
            target_modules=sorted(factors),
            rank_pattern=smaller,
            alpha_pattern={path: float(own) for path, own in smaller.items()},
        )
        with self._bare():
            adapter = LoraAdapter.attach(self.model, method)
            adapter.remove()
        with torch.no_grad():
            for path, (lora_a, lora_b) in factors.items():
                adapter.layers[path].lora_a.copy_(lora_a)
                adapter.layers[path].lora_b.copy_(lora_b)
        self.adapters[name] = adapter
        return adapter

    @contextmanager
    def _bare(self) -> Iterator[None]:
        """Switch to the base model inside the context."""
        before = self.active
        self.switch(None)
        try:
            yield
        finally:
            self.switch(before)

    def _named(self, name: str) -> Adapter:
        if name not in self.adapters:
            raise BadConfig(
                f"There is no adapter {name!r}.",
                f"Loaded adapters: {', '.join(self.adapters) or 'none, so load one first'}.",
            )
        return self.adapters[name]

    def _lora(self, name: str) -> LoraAdapter:
        adapter = self._named(name)
        if not isinstance(adapter, LoraAdapter) or adapter.experts:
            raise BadConfig(f"{name!r} is not LoRA on layers, which this needs.", "Switch to it instead.")
        return adapter


class _MixedLayer(nn.Module):
    """A layer that runs each row of a batch through its own adapter's layer, at the cost of one layer's products."""

    def __init__(self, path: str, layers: list[tuple[nn.Module, list[int]]]) -> None:
        super().__init__()
        self._path = path
        self._layers = layers
        self._rows = sum(len(indices) for _, indices in layers)

    def forward(self, x: Tensor) -> Tensor:  # (rows, …)
        if x.shape[0] != self._rows:
            raise BadConfig(
                f"{self._path} received {x.shape[0]} rows, but {self._rows} adapters were given.",
                "Give one adapter per row of the batch. Layers of a mixture do not see rows: switch adapters instead.",
            )
        order = torch.tensor([index for _, indices in self._layers for index in indices], device=x.device)
        outputs = torch.cat([layer(x[indices]) for layer, indices in self._layers])
        return outputs[order.argsort()]
