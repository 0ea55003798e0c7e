"""Merge an adapter into the base model's weights, and undo it.

    W' = W + s B A   in float32, rounded once to the weight's own dtype            DoRA: W' = m ⊙ (W + s B A) / n

The base weights are kept on the CPU and restored on unmerging, as subtracting would leave rounding errors. For a base
in 4 or 8 bits see `merge_dense`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.lora_layers import LoraEmbedding, LoraLinear
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.kernels.frozen_weight import dense, is_quantised


@dataclass
class Merge:
    """A merged adapter, and the original base weights."""

    adapter: LoraAdapter
    base_weights: dict[str, Tensor]

    @torch.no_grad()
    def undo(self) -> None:
        """Restore the base weights, bit for bit, and install the adapter again."""
        for path, weight in self.base_weights.items():
            self.adapter.layers[path].weight.copy_(weight)
        self.adapter.install()


@torch.no_grad()
def merge(adapter: LoraAdapter) -> Merge:
    """Merge the updates into the weights, in place, and remove the adapter from the model.

    Raises:
        BadConfig: a weight is quantised, or is an embedding shared with the output head.
    """
    kept = {path: layer.weight.detach().cpu().clone() for path, layer in adapter.layers.items()}
    merge_for_good(adapter)
    return Merge(adapter, kept)


@torch.no_grad()
def merge_for_good(adapter: LoraAdapter) -> None:
    """Merge without keeping the base weights, which needs no extra memory.

    Raises:
        BadConfig: as `merge`.
    """
    _check_embeddings(adapter)
    for path, layer in adapter.layers.items():
        if is_quantised(layer.weight):
            raise BadConfig(
                f"{path} is quantised and cannot be merged into.", "Merge onto 16-bit weights: see `merge_dense`."
            )
    for layer in adapter.layers.values():
        weight = layer.weight
        transposed = isinstance(layer, LoraLinear) and layer.is_transposed
        adapted = layer.adapted_weight((weight.t() if transposed else weight).float())
        weight.copy_(adapted.t() if transposed else adapted)
    adapter.remove()


DenseBase = Literal["stored", "dequantised"]
"""The weights before quantisation, or the dequantised ones that the adapter was trained on."""


@dataclass(frozen=True)
class DenseMerge:
    """A 16- or 32-bit model with a quantised base's adapter merged in, and the distance of each way to merge."""

    model: PreTrainedModel
    base: DenseBase
    distances: dict[DenseBase, float]
    """Relative norm of the difference between each way's logits and those of the adapted quantised model."""


@torch.no_grad()
def merge_dense(adapter: LoraAdapter, load_stored: Callable[[], PreTrainedModel], input_ids: Tensor) -> DenseMerge:
    """Merge the adapter of a quantised base onto dense weights both ways and keep the closer one.

    Args:
        load_stored: Loads the unquantised base model in the merged model's dtype.
        input_ids: (rows, T), input for the measurement, preferably real text.
    """
    _check_embeddings(adapter)
    expected = _logits(adapter.model, input_ids)

    def distance(base: DenseBase) -> float:  # Frees its model on return, so only one dense model is in memory.
        logits = _logits(_merged_onto(adapter, load_stored(), base), input_ids)
        return float((logits - expected).norm() / expected.norm())

    distances: dict[DenseBase, float] = {base: distance(base) for base in get_args(DenseBase)}
    closer = min(distances, key=distances.__getitem__)
    return DenseMerge(_merged_onto(adapter, load_stored(), closer), closer, distances)


def _merged_onto(adapter: LoraAdapter, model: PreTrainedModel, base: DenseBase) -> PreTrainedModel:
    """Merge the adapter into the dense model; with `dequantised`, copy all dequantised weights first."""
    if base == "dequantised":
        for path, module in adapter.model.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, Tensor) and is_quantised(weight):
                _write(model.get_submodule(path), dense(weight, torch.float32))
    for path, layer in adapter.replacements.items():
        target = model.get_submodule(path)
        _write(target, layer.adapted_weight(_read(target).float()))
    for path, experts in adapter.experts.items():
        parameter = model.get_parameter(path)
        parameter.copy_(experts.adapted_weight(parameter.float()))
    return model


def _read(module: Any) -> Tensor:
    weight: Tensor = module.weight
    return weight.t() if type(module).__name__ == "Conv1D" else weight


def _write(module: Any, weight: Tensor) -> None:
    _read(module).copy_(weight)


def _logits(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=input_ids.to(model.device), use_cache=False).logits
    return logits.float().cpu()


def _check_embeddings(adapter: LoraAdapter) -> None:
    head = adapter.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for path, layer in adapter.layers.items():
        if isinstance(layer, LoraEmbedding) and isinstance(head, nn.Module) and head.weight is layer.weight:
            raise BadConfig(
                f"{path} shares its weight with the output head, which the adapter does not change.",
                "Serve this adapter unmerged with its base model.",
            )
