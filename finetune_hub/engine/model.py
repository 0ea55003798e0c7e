"""Base models: load them, choose their dtype by measurement, and check which fast paths are exact for them.

Loading is local and safe: only safetensors, no remote code, no network.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_hub.artifacts.safetensors_header import header_bytes_of
from finetune_hub.engine.allocator import release_freed_memory
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.kernels import document_attention, products
from finetune_hub.engine.kernels.document_attention import DOCUMENT_ATTENTION, UnsupportedAttention, documents
from finetune_hub.engine.kernels.frozen_linear import replace_quantized_layers
from finetune_hub.engine.kernels.frozen_weight import is_quantised
from finetune_hub.engine.quantization import Quantization
from finetune_hub.machine.event_file import EventLog

DtypeChoice = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MEASURED_DTYPES = ("float32", "bfloat16")
_MEASURED_TOKENS = 256
_MEASURED_ROUNDS = 6
_WORTHWHILE = 0.9  # bfloat16 costs precision, so it must be more than 10% faster.
_HOPELESS = 4  # A dtype this many times slower after one round is not measured again.
_ISOLATION_TOLERANCE = 1e-3  # Another document's tokens leave this one bit-identical; a leak changes it far more.
_ALONE_TOLERANCE = 0.1  # Relative; bfloat16 rounds differently in another shape; wrong positions differ more.


def read_config(folder: Path) -> PretrainedConfig:
    """Read the model's config.

    Raises:
        BadConfig: it is missing, unknown to transformers, or needs remote code or an unsupported quantisation.
    """
    if not (folder / "config.json").is_file():
        raise BadConfig(f"The base model folder {folder.name} has no config.json.", "Import the base model again.")
    if not any(folder.glob("*.safetensors")):
        raise BadConfig(
            f"The base model folder {folder.name} has no safetensors weights.", "Import the base model again."
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as unknown:
        raise BadConfig(
            f"The base model's config.json cannot be used ({_first_line(unknown)}).",
            "Use an architecture that the installed transformers knows without remote code.",
        ) from unknown
    assert isinstance(config, PretrainedConfig)
    if getattr(config, "quantization_config", None):
        raise BadConfig("The base model is stored quantised.", "Import its 16-bit or 32-bit weights.")
    return config


def load_base_model(
    folder: Path, *, dtype: torch.dtype, device: str, quantization: Quantization | None = None
) -> PreTrainedModel:
    """Load the base model in evaluation mode, with transformers' default attention: fused if it is exact.

    Args:
        quantization: How to quantise all linear layers but the head; each is quantised while loading.

    Raises:
        BadConfig: the folder does not contain a loadable causal language model.
    """
    config = read_config(folder)
    placement: dict[str, Any] = {}
    if quantization is not None:
        placement = {"quantization_config": quantization.for_transformers(dtype), "device_map": {"": device}}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            **placement,
        )
    except (OSError, ValueError, SafetensorError) as broken:
        raise BadConfig(f"The base model cannot be loaded ({_first_line(broken)}).", "Import it again.") from broken
    assert isinstance(model, PreTrainedModel)
    nn.Module.to(model, device)
    replace_quantized_layers(model)
    if device == "cpu":
        release_freed_memory()
        if quantization is not None:
            _leave_the_file(model)
    return nn.Module.eval(model)


def _leave_the_file(model: PreTrainedModel) -> None:
    """Copy tensors that are not packed, as a single tensor in the mapped file would keep all its pages in memory."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if not is_quantised(tensor):
            tensor.data = tensor.data.clone()


def choose_dtype(choice: DtypeChoice, folder: Path, device: str, log: EventLog) -> torch.dtype:
    """Return the dtype to compute in; `auto` times this model's matrix products on the device and uses the faster one.

    A CPU that computes bfloat16 products in float32 (`kernels.products`) uses float32 without timing.
    """
    if choice != "auto":
        return DTYPES[choice]
    if device == "cpu" and torch.bfloat16 in products.slow_dtypes():
        log.info("Computing in float32: this processor multiplies bfloat16 matrices more slowly.")
        return torch.float32
    shapes = _linear_shapes(read_config(folder))
    seconds = dict.fromkeys(_MEASURED_DTYPES, math.inf)
    for _ in range(
        _MEASURED_ROUNDS
    ):  # Alternate and use the best of each, so that load from other processes does not decide.
        for name in _MEASURED_DTYPES:
            if not _HOPELESS * min(seconds.values()) < seconds[name] < math.inf:
                seconds[name] = min(seconds[name], _time_products(shapes, DTYPES[name], device))
    chosen = "bfloat16" if seconds["bfloat16"] < _WORTHWHILE * seconds["float32"] else "float32"
    timings = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items())
    log.info(f"Computing in {chosen}: a layer's products over {_MEASURED_TOKENS} tokens take {timings}.")
    return DTYPES[chosen]


def _linear_shapes(config: PretrainedConfig) -> set[tuple[int, int]]:
    """Return every (O, I) of the model's linear layers except the head, from a copy without storage."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    head = output_head(model)
    linears = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
    return {(linear.out_features, linear.in_features) for linear in linears}


def _time_products(shapes: set[tuple[int, int]], dtype: torch.dtype, device: str) -> float:
    """Return the seconds for training's products, once per shape: forward, gradients of the input and a thin matrix."""
    total = 0.0
    for out_features, in_features in shapes:
        weight = torch.ones(out_features, in_features, dtype=dtype, device=device)
        x = torch.ones(_MEASURED_TOKENS, in_features, dtype=dtype, device=device)
        _synchronise(device)
        start = time.perf_counter()
        y = x @ weight.t()
        y.t() @ (y @ weight)[:, :16]
        _synchronise(device)
        total += time.perf_counter() - start
    return total


def _synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class FastPaths:
    """Optimisations that were verified on this model and change nothing in its results."""

    packed: bool
    """Documents are concatenated in one sequence; otherwise every row is a separate pass."""
    plain_head: bool
    """Logits are the head's product with the last hidden state; otherwise the model computes them."""


@torch.no_grad()
def prove_fast_paths(model: PreTrainedModel) -> FastPaths:
    """Verify both fast paths on a few tokens; if documents stay isolated, switch the model to document attention."""
    document_attention.register()
    ids = (torch.arange(12, device=model.device) * 7 + 3) % model.config.get_text_config().vocab_size
    return FastPaths(packed=_packing_is_exact(model, ids), plain_head=_head_is_plain(model, ids))


def _packing_is_exact(model: PreTrainedModel, ids: Tensor) -> bool:
    lengths = (5, 7)
    own_attention = model.config._attn_implementation
    try:
        alone = _hidden_states(model, ids[5:], (7,))
        model.set_attn_implementation(DOCUMENT_ATTENTION)
        packed = _hidden_states(model, ids, lengths)[5:]
        other = _hidden_states(model, torch.cat([ids[:5].flip(0), ids[5:]]), lengths)[5:]
    except (UnsupportedAttention, TypeError, ValueError):
        model.set_attn_implementation(own_attention)
        return False
    scale = alone.norm()
    if (packed - other).norm() <= _ISOLATION_TOLERANCE * scale and (packed - alone).norm() <= _ALONE_TOLERANCE * scale:
        return True
    model.set_attn_implementation(own_attention)
    return False


def _head_is_plain(model: PreTrainedModel, ids: Tensor) -> bool:
    head = output_head(model)
    if not isinstance(head, nn.Linear):
        return False
    logits = model(input_ids=ids[None], use_cache=False).logits[0]
    return bool(torch.allclose(head(_hidden_states(model, ids, (len(ids),))), logits, rtol=1e-3, atol=1e-3))


@contextmanager
def plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Use transformers' own attention inside: generation pads and caches, which document attention does not support."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer with torch.compile, in place; document attention stays outside the graphs.

    The first step with a new shape compiles for a while; shapes are dynamic, so this happens once or twice.
    """
    uncompiled = torch.compiler.disable(document_attention.document_attention)  # type: ignore[no-untyped-call]
    document_attention.register(uncompiled)
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def _hidden_states(model: PreTrainedModel, ids: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """(T, H), in the model's dtype."""
    positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])
    with documents(lengths):
        output = model.base_model(input_ids=ids[None], position_ids=positions[None], use_cache=False)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def fingerprint(folder: Path) -> str:
    """Return a hash that identifies a base model by config, tokenizer and the start of each weight file.

    A safetensors header lists the tensors; the first MiB after it is hashed too, because fine-tunes of one model share
    their headers.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors", ".jinja"}:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                if path.suffix == ".safetensors":
                    file.seek(8)
                    digest.update(file.read(header_bytes_of(path)))
                digest.update(file.read(1 << 20))
    return digest.hexdigest()


def output_head(model: PreTrainedModel) -> nn.Module | None:
    """Return the layer that computes logits, if the model has one."""
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
