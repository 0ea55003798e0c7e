"""Quantisation of a base model's linear layers: NF4 or FP4 with or without double quantisation, or int8.

Products use the run's dtype: a weight is dequantised for each product, see `kernels.frozen_weight`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from finetune_hub.spec.methods.method import Method

QuantizationKind = Literal["nf4", "fp4", "int8"]


@dataclass(frozen=True)
class Quantization:
    """The settings for bitsandbytes."""

    kind: QuantizationKind
    double: bool = True

    def for_transformers(self, compute_dtype: torch.dtype) -> Any:
        """Return the settings as transformers' configuration."""
        from transformers import BitsAndBytesConfig

        if self.kind == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)  # type: ignore[no-untyped-call]
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type=self.kind,
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=compute_dtype,
        )


def quantization_of(method: Method) -> Quantization | None:
    """Return the quantisation that the method needs for its base model."""
    asked = method.base_quantization
    return Quantization(asked["quantization"], double=asked["double_quantization"]) if asked else None


def quantization_in(model: PreTrainedModel) -> Quantization | None:
    """Return the quantisation of a loaded model."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return None
    config = quantizer.quantization_config
    if config.load_in_8bit:
        return Quantization("int8")
    return Quantization(config.bnb_4bit_quant_type, double=config.bnb_4bit_use_double_quant)
