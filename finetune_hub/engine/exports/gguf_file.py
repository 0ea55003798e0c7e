"""GGUF files, written and read one tensor at a time, without a second copy of the model in memory.

    merged    general.type = model     all tensors with llama.cpp's names, the tokenizer and the chat template
    adapter   general.type = adapter   <tensor>.lora_a (R, I)  <tensor>.lora_b (O, R)  adapter.lora.alpha

Matrices have the file's number format, everything else is float32. The `gguf` package writes, quantises and reads.
Source: llama.cpp, `convert_lora_to_gguf.py` and `conversion/base.py`, read in October 2026.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType
from torch import Tensor
from transformers import PreTrainedModel

from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.exports.gguf_family import Array, GgufSpelling
from finetune_hub.engine.exports.gguf_vocabulary import add_vocabulary

_FORMATS = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}


def write_merged(path: Path, model: PreTrainedModel, *, folder: Path, name: str, number_format: str) -> None:
    """Write a model without an adapter, with the tokenizer from the folder.

    Raises:
        BadConfig: the model or its tokenizer cannot be expressed in GGUF.
    """
    config = model.config
    spelling = GgufSpelling(config)
    writer = GGUFWriter(path, spelling.family.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    spelling.add_hyperparameters(writer)
    add_vocabulary(writer, folder, config.vocab_size)
    tensors = [
        _planned(spelling.name(key), tensor, number_format, _exporter(spelling, key, tensor))
        for key, tensor in _stored_tensors(model).items()
    ]
    if (factors := spelling.rope_factors()) is not None:
        tensors.append(_Planned("rope_freqs.weight", factors.shape, GGMLQuantizationType.F32, lambda: factors))
    _write(writer, tensors, number_format)


def write_adapter(
    path: Path, factors: dict[str, tuple[Tensor, Tensor]], *, alpha: float, config: Any, number_format: str
) -> None:
    """Write a LoRA adapter with equal ranks.

    Args:
        factors: A and B of each module, by its path in the model.
        config: The base model's config.
    """
    spelling = GgufSpelling(config)
    writer = GGUFWriter(path, spelling.family.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    tensors = []
    for module, (lora_a, lora_b) in factors.items():
        name = f"{spelling.name(module)}.weight"
        tensors.append(_planned(f"{name}.lora_a", lora_a, number_format, partial(_array, lora_a)))
        tensors.append(_planned(f"{name}.lora_b", lora_b, number_format, _exporter(spelling, module, lora_b)))
    _write(writer, tensors, number_format)


@torch.no_grad()
def read_merged(path: Path, model: PreTrainedModel) -> None:
    """Copy the file's tensors into a model with the same config.

    Raises:
        BadConfig: the file lacks a tensor of the model, or has an extra one.
    """
    spelling = GgufSpelling(model.config)
    expected = {spelling.name(key): (key, tensor) for key, tensor in _stored_tensors(model).items()}
    found = {tensor.name: tensor for tensor in GGUFReader(path).tensors if tensor.name != "rope_freqs.weight"}
    if difference := sorted(expected.keys() ^ found.keys()):
        raise BadConfig(f"The file and the model differ in {difference[0]}.", "This is a bug in the export.")
    for name, (key, tensor) in expected.items():
        tensor.copy_(torch.tensor(spelling.from_gguf(key, _dense(found[name]))))


def read_adapter(path: Path, modules: list[str], config: Any) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """Read A and B of each module, and alpha."""
    spelling, reader = GgufSpelling(config), GGUFReader(path)
    found = {tensor.name: _dense(tensor) for tensor in reader.tensors}
    factors = {}
    for module in modules:
        name = f"{spelling.name(module)}.weight"
        lora_b = spelling.from_gguf(module, found[f"{name}.lora_b"])
        factors[module] = torch.tensor(found[f"{name}.lora_a"]), torch.tensor(lora_b)
    alpha = reader.get_field(gguf.Keys.Adapter.LORA_ALPHA)
    assert alpha is not None
    return factors, float(alpha.contents())


# ---- internals


@dataclass(frozen=True)
class _Planned:
    """A tensor to write, created when its turn comes."""

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    make: Callable[[], Array]


def _planned(name: str, tensor: Tensor, number_format: str, make: Callable[[], Array]) -> _Planned:
    kind = _FORMATS[number_format][0]
    if tensor.dim() < 2 or name.endswith("_norm.weight"):
        kind = GGMLQuantizationType.F32
    elif tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = GGMLQuantizationType.F16  # As in llama.cpp for rows that are not a multiple of a block.
    return _Planned(name, tuple(tensor.shape), kind, make)


def _write(writer: GGUFWriter, tensors: list[_Planned], number_format: str) -> None:
    writer.add_file_type(_FORMATS[number_format][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in tensors:
        block, block_bytes = gguf.GGML_QUANT_SIZES[tensor.kind]
        size_bytes = int(np.prod(tensor.shape)) // block * block_bytes
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size_bytes, raw_dtype=tensor.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(gguf.quantize(np.ascontiguousarray(tensor.make()), tensor.kind))
    writer.close()


def _stored_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the model's tensors by name; a head tied to the embeddings is not stored twice."""
    tied = model.config.tie_word_embeddings
    return {key: tensor for key, tensor in model.state_dict().items() if not (tied and key == "lm_head.weight")}


def _exporter(spelling: GgufSpelling, key: str, tensor: Tensor) -> Callable[[], Array]:
    return lambda: spelling.to_gguf(key, _array(tensor))


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().cpu().numpy()
    return array


def _dense(tensor: Any) -> Array:
    array: Array = gguf.dequantize(tensor.data, tensor.tensor_type)
    return array.reshape([int(size) for size in reversed(tensor.shape)])
