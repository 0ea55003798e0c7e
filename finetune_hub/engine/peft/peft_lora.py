"""LoRA in PEFT's format.

    base_model.model.<path>.lora_A.weight (R, I)   .lora_B.weight (O, R)   .lora_magnitude_vector (O,)
    base_model.model.<path>.lora_embedding_A (R, V)   .lora_embedding_B (H, R)

Adapters of a mixture's experts belong to their module; if a module has several, PEFT wraps it once for each, and the
inner ones' keys get `base_layer.`. PiSSA and OLoRA are written as equivalent plain LoRA of twice the rank, so that any
reader can apply them to the original base.
Source: PEFT 0.21, `peft/tuners/lora/config.py` and `layer.py`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune_hub.engine.adapters.lora import LoraAdapter, LoraLayer
from finetune_hub.engine.adapters.lora_layers import LoraEmbedding, LoraLinear
from finetune_hub.engine.adapters.lora_parameter import LoraParameter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.methods.low_rank import LoraMethod

PEFT_TYPE = "LORA"
_PREFIX = "base_model.model."
_SUFFIXES = (".lora_A.weight", ".lora_embedding_A")
# Settings that change what an adapter computes and that we do not support: only these values can be read.
_PLAIN: dict[str, Any] = {
    "bias": "none",
    "lora_bias": False,
    "modules_to_save": None,
    "alora_invocation_tokens": None,
    "trainable_token_indices": None,
    "layer_replication": None,
}


def tensors_of(adapter: LoraAdapter) -> dict[str, Tensor]:
    """Return the adapter's tensors with PEFT's keys."""
    return {
        key: tensor
        for path, layer in adapter.layers.items()
        for key, tensor in _layer_tensors(_key_of(adapter, path), layer).items()
    }


def config_of(adapter: LoraAdapter) -> dict[str, Any]:
    """Return the adapter's settings with PEFT's names."""
    method = adapter.method
    grow = method.kept_copies
    # rsLoRA divides alpha by √rank, so twice the rank needs √2 times the alpha for the same scale.
    alpha_factor = grow**0.5 if method.use_rslora else float(grow)
    return {
        "alpha_pattern": {key: _whole(alpha_factor * alpha) for key, alpha in (method.alpha_pattern or {}).items()},
        "bias": "none",
        "exclude_modules": method.exclude_modules,
        "fan_in_fan_out": any(
            isinstance(layer, LoraLinear) and layer.is_transposed for layer in adapter.layers.values()
        ),
        "init_lora_weights": True,
        "lora_alpha": _whole(alpha_factor * method.alpha),
        "lora_dropout": method.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": grow * method.rank,
        "rank_pattern": {key: grow * rank for key, rank in (method.rank_pattern or {}).items()},
        "target_modules": _target_modules(adapter),
        "use_dora": method.use_dora,
        "use_rslora": method.use_rslora,
        **({"target_parameters": sorted(method.target_parameters)} if method.target_parameters else {}),
    }


def read_method(config: dict[str, Any], tensors: dict[str, Tensor]) -> LoraMethod:
    """Read the method from PEFT's settings.

    Raises:
        BadConfig: a setting changes what the adapter computes and is not supported.
    """
    for key, plain in _PLAIN.items():
        if (value := config.get(key)) not in (plain, None):
            raise BadConfig(f"LoRA with {key} = {value!r} cannot be loaded.", f"Use an adapter with {key} = {plain!r}.")
    return LoraMethod(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout", 0.0),
        use_rslora=config.get("use_rslora") or False,
        use_dora=config.get("use_dora") or False,
        rank_pattern=config.get("rank_pattern") or None,
        alpha_pattern=config.get("alpha_pattern") or None,
        target_modules=_read_targets(config, tensors),
        exclude_modules=config.get("exclude_modules") or None,
        target_parameters=config.get("target_parameters") or None,
    )


@torch.no_grad()
def load(adapter: LoraAdapter, tensors: dict[str, Tensor]) -> None:
    """Copy the tensors, whose keys and shapes match, into the adapter."""
    for key, tensor in tensors_of(adapter).items():
        tensor.copy_(tensors[key])


def portable(adapter: LoraAdapter) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the same updates for readers with one scale and one rank: vLLM, llama.cpp's converter, LoRAX.

    Each layer's scale is multiplied into B, and both matrices are padded with zeros to one rank; then alpha = rank.

    Returns:
        Tensors and settings with PEFT's names.

    Raises:
        BadConfig: the adapter uses DoRA, which none of these readers supports, or adapts other than linear layers.
    """
    if adapter.method.use_dora:
        raise BadConfig("DoRA has no portable form, as it is not plain LoRA.", "Export it merged (`merged`) instead.")
    factors = {}
    for path, layer in adapter.layers.items():
        if not isinstance(layer, LoraLinear):
            raise BadConfig(
                f"{path} is not a linear layer, and portable adapters support no others.", "Export it merged instead."
            )
        factors[path] = (*layer.factors(), layer.scale)
    rank = max(lora_a.shape[0] for lora_a, _, _ in factors.values())
    padded = {}
    for path, (lora_a, lora_b, scale) in factors.items():
        missing = rank - lora_a.shape[0]
        padded[path] = (
            torch.nn.functional.pad(lora_a, (0, 0, 0, missing)),
            torch.nn.functional.pad(scale * lora_b, (0, missing)),
        )
    config = config_of(adapter) | {
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
    }
    return keyed(padded), config


def keyed(factors: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Return A and B of each module, given by path, with PEFT's keys."""
    return {
        f"{_PREFIX}{path}.lora_{letter}.weight": tensor
        for path, pair in factors.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }


def factors_in(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B by module path: the inverse of `keyed`."""
    ends = ".lora_A.weight", ".lora_B.weight"
    paths = [key.removeprefix(_PREFIX).removesuffix(ends[0]) for key in tensors if key.endswith(ends[0])]
    return {path: (tensors[f"{_PREFIX}{path}{ends[0]}"], tensors[f"{_PREFIX}{path}{ends[1]}"]) for path in paths}


def _layer_tensors(key: str, layer: LoraLayer) -> dict[str, Tensor]:
    if isinstance(layer, LoraEmbedding):
        return {f"{key}.lora_embedding_A": layer.lora_a, f"{key}.lora_embedding_B": layer.lora_b}
    if isinstance(layer, LoraParameter):
        return {f"{key}.lora_A.weight": layer.lora_a, f"{key}.lora_B.weight": layer.lora_b}
    lora_a, lora_b = layer.factors()
    tensors = {f"{key}.lora_A.weight": lora_a, f"{key}.lora_B.weight": lora_b}
    magnitude = getattr(layer, "magnitude", None)
    return tensors if magnitude is None else {**tensors, f"{key}.lora_magnitude_vector": magnitude}


def _key_of(adapter: LoraAdapter, path: str) -> str:
    if path not in adapter.experts:
        return _PREFIX + path
    owner = path.rpartition(".")[0]
    siblings = [other for other in adapter.experts if other.rpartition(".")[0] == owner]
    depth = len(siblings) - 1 - siblings.index(path)  # PEFT wraps in the model's order, so the last is outermost.
    return _PREFIX + owner + ".base_layer" * depth


def _read_targets(config: dict[str, Any], tensors: dict[str, Tensor]) -> str | list[str]:
    """Return the configured names, or the paths in the weights file if PEFT's selection is finer (only some layers)."""
    targets = config.get("target_modules")
    if not config.get("layers_to_transform"):
        if isinstance(targets, str):
            return targets
        if targets or config.get("target_parameters"):
            return sorted(targets or [])
    return sorted(
        key.removeprefix(_PREFIX)[: -len(suffix)] for key in tensors for suffix in _SUFFIXES if key.endswith(suffix)
    )


def _target_modules(adapter: LoraAdapter) -> str | list[str]:
    """Return the configured targets; `all-linear` is expanded, as servers need a list."""
    targets = adapter.method.target_modules
    if targets != "all-linear":
        return targets if isinstance(targets, str) else sorted(targets)
    # A name such as `0` would match whole layers too, so the path is used.
    return sorted({path if path[-1].isdigit() else path.rpartition(".")[2] for path in adapter.replacements})


def _whole(value: float) -> float | int:
    """Return whole numbers as integers, as PEFT and some readers expect alpha to be one."""
    return int(value) if float(value).is_integer() else value
