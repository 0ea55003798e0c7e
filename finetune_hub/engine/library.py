"""A small Python API of the engine, without the service: see docs/python.md.

model = load("model")
adapter = apply(model, LoraMethod(rank=16))
…                                              # train it in your own loop
save(adapter, "adapter")                       # PEFT's format
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.adapter import Adapter, parameter_groups
from finetune_hub.engine.methods import attach_method
from finetune_hub.engine.model import load_base_model
from finetune_hub.engine.peft import peft_format
from finetune_hub.engine.quantization import Quantization, QuantizationKind
from finetune_hub.spec.methods.method import Method


def load(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    quantization: QuantizationKind | None = None,
) -> PreTrainedModel:
    """Load a base model from its folder, in evaluation mode.

    Raises:
        BadConfig: the folder does not contain a loadable causal language model.
    """
    kept_as = None if quantization is None else Quantization(quantization)
    return load_base_model(Path(folder), dtype=dtype, device=device, quantization=kept_as)


def apply(model: PreTrainedModel, method: Method, *, seed: int = 0) -> Adapter:
    """Freeze the model and attach a new adapter to it, in place. `optimizer_for` returns its optimizer.

    Raises:
        BadConfig: the method does not fit the model.
    """
    return attach_method(model, method, seed=seed)


def optimizer_for(adapter: Adapter, learning_rate: float | None = None) -> torch.optim.AdamW:
    """Return AdamW for the adapter's parameters, by default with the method's learning rate."""
    rate = adapter.method.default_learning_rate if learning_rate is None else learning_rate
    return torch.optim.AdamW(parameter_groups(adapter, rate), weight_decay=0.0)


def save(adapter: Adapter, folder: str | Path) -> None:
    """Write the adapter in PEFT's format."""
    name = adapter.model.name_or_path or ""
    peft_format.write_adapter(Path(folder), adapter, base_model_name=str(name))


def attach(model: PreTrainedModel, folder: str | Path) -> Adapter:
    """Read a saved adapter, ours or PEFT's, and attach it to its base model.

    Raises:
        BadConfig: the files do not fit the model.
    """
    return peft_format.attach_adapter(model, Path(folder))
