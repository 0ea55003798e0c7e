"""Base models: load one from its folder, choose its dtype by measurement, find out which fast paths are exact on it.

Loading is local and safe: safetensors only, no remote code, no network.
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
_WORTHWHILE = 0.9  # bfloat16 costs precision: it must be faster by more than a tenth.
_HOPELESS = 4  # So many times slower after one round needs no further rounds.
_ISOLATION_TOLERANCE = 1e-3  # Another document's tokens leave this one bit-equal; a leak changes it by far more.
_ALONE_TOLERANCE = 0.1  # Relative; bfloat16 rounds differently in another shape, wrong positions differ more.


def read_config(folder: Path) -> PretrainedConfig:
    """The model's config.

    Raises:
        BadConfig: it is missing, unknown to transformers, or wants code or a quantisation that is not loaded here.
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
    """The base model in evaluation mode, with transformers' own choice of attention: the fused one where it is exact.

    Args:
        quantization: How its linear layers are kept, all but the head's; each is quantised as it is read.

    Raises:
        BadConfig: the folder does not hold a causal language model that can be loaded.
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
    """Copy what is not packed: one tensor that still lies in the mapped file holds every page read for packing."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if not is_quantised(tensor):
            tensor.data = tensor.data.clone()


def choose_dtype(choice: DtypeChoice, folder: Path, device: str, log: EventLog) -> torch.dtype:
    """The dtype to compute in; `auto` times this model's matrix products on the device and takes the faster.

    On a CPU whose products of bfloat16 are float32's (`kernels.products`) there is nothing to time: float32.
    """
    if choice != "auto":
        return DTYPES[choice]
    if device == "cpu" and torch.bfloat16 in products.slow_dtypes():
        log.info("Computing in float32: this processor multiplies bfloat16 matrices more slowly.")
        return torch.float32
    shapes = _linear_shapes(read_config(folder))
    seconds = dict.fromkeys(_MEASURED_DTYPES, math.inf)
    for _ in range(_MEASURED_ROUNDS):  # In turn, and the best of each: another process's load must not decide.
        for name in _MEASURED_DTYPES:
            if not _HOPELESS * min(seconds.values()) < seconds[name] < math.inf:
                seconds[name] = min(seconds[name], _time_products(shapes, DTYPES[name], device))
    chosen = "bfloat16" if seconds["bfloat16"] < _WORTHWHILE * seconds["float32"] else "float32"
    timings = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in seconds.items())
    log.info(f"Computing in {chosen}: a layer's products over {_MEASURED_TOKENS} tokens take {timings}.")
    return DTYPES[chosen]


def _linear_shapes(config: PretrainedConfig) -> set[tuple[int, int]]:
    """Every (O, I) among the model's linear layers but the head's, told from a copy without storage."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    head = output_head(model)
    linears = (module for module in model.modules() if isinstance(module, nn.Linear) and module is not head)
    return {(linear.out_features, linear.in_features) for linear in linears}


def _time_products(shapes: set[tuple[int, int]], dtype: torch.dtype, device: str) -> float:
    """Seconds of the products that training needs, once a shape: forward, the input's gradient, and a thin matrix's."""
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
    """Short cuts that were tried on this very model and found to change nothing."""

    packed: bool
    """Documents lie one behind the other in a sequence; otherwise every row is a pass of its own."""
    plain_head: bool
    """Logits are the head's product with the last hidden state; otherwise the model makes them itself."""


@torch.no_grad()
def prove_fast_paths(model: PreTrainedModel) -> FastPaths:
    """Try both short cuts on a few tokens; where documents stay apart, the model is switched to document attention."""
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
    """Transformers' own attention inside: generation pads and caches, which document attention does not know."""
    before = model.config._attn_implementation
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer with torch.compile, in place; document attention stays outside of the graphs.

    The first step of every shape compiles for a while; shapes are dynamic, so that is once or twice.
    """
    uncompiled = torch.compiler.disable(document_attention.document_attention)  # type: ignore[no-untyped-call]
    document_attention.register(uncompiled)
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile(dynamic=True)


def _hidden_states(model: PreTrainedModel, ids: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """(T, H), in float32 unless the model is."""
    positions = torch.cat([torch.arange(length, device=ids.device) for length in lengths])
    with documents(lengths):
        output = model.base_model(input_ids=ids[None], position_ids=positions[None], use_cache=False)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def fingerprint(folder: Path) -> str:
    """A hash that tells base models apart by config, tokenizer and the beginning of each weight file.

    The header of a safetensors file lists its tensors; the first MiB behind it is hashed too, because fine-tunes of one
    model share their headers.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors", ".jinja"}:
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                if path.suffix == ".safetensors":
                    digest.update(file.read(int.from_bytes(file.read(8), "little")))
                digest.update(file.read(1 << 20))
    return digest.hexdigest()


def output_head(model: PreTrainedModel) -> nn.Module | None:
    """The layer that makes logits, where the model has one."""
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
