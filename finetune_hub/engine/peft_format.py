"""Adapters on disk in PEFT's format, which PEFT, vLLM, llama.cpp's converter and others read.

    adapter_config.json         settings, under PEFT's names
    adapter_model.safetensors   base_model.model.<path>.lora_A.weight (R, I) and .lora_B.weight (O, R), in float32

Only here are PEFT's spellings used. A small stable set of keys is written: old readers warn about unknown ones.
Source: PEFT 0.21, `peft/utils/save_and_load.py` and `peft/tuners/lora/config.py`, as documented under
"Adapter checkpoint format".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.registry import Adapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.spec.training import LoraMethod

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_SUFFIXES = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight"}
# Settings that change what an adapter computes and that LoRA here does not have: only these values can be read.
_PLAIN_LORA: dict[str, Any] = {
    "bias": "none",
    "fan_in_fan_out": False,
    "use_rslora": False,
    "use_dora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
}


def write_adapter(folder: Path, adapter: Adapter, *, base_model_name: str) -> None:
    """Write both files into the folder, which is made when it is missing."""
    assert isinstance(adapter, LoraAdapter)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        _peft_key(name): tensor.detach().float().cpu().contiguous() for name, tensor in adapter.parameters().items()
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        **_PLAIN_LORA,
        "base_model_name_or_path": base_model_name,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _whole(adapter.method.alpha),
        "lora_dropout": adapter.method.dropout,
        "peft_type": "LORA",
        "r": adapter.method.rank,
        "revision": None,
        "target_modules": _target_modules(adapter),
        "task_type": "CAUSAL_LM",
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def attach_adapter(model: PreTrainedModel, folder: Path) -> LoraAdapter:
    """Read an adapter, ours or PEFT's, and attach it to its base model.

    Raises:
        BadConfig: the files are missing or broken, or do not belong to this base model.
    """
    method = read_method(folder)
    adapter = LoraAdapter.attach(model, method)
    load_weights(adapter, folder)
    return adapter


def load_weights(adapter: Adapter, folder: Path) -> None:
    """Copy the folder's tensors into an attached adapter; keys and shapes must match exactly."""
    with _open_weights(folder) as weights:
        tensors = {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118
    parameters = {_peft_key(name): parameter for name, parameter in adapter.parameters().items()}
    missing, unexpected = sorted(parameters.keys() - tensors.keys()), sorted(tensors.keys() - parameters.keys())
    if missing or unexpected:
        example = (missing or unexpected)[0]
        raise BadConfig(
            f"The adapter does not fit the base model: {len(missing)} tensors are missing and {len(unexpected)} are "
            f"unexpected, such as {example}.",
            "Use the base model that the adapter was trained on.",
        )
    with torch.no_grad():
        for key, parameter in parameters.items():
            if parameter.shape != tensors[key].shape:
                raise BadConfig(
                    f"{key} has shape {list(tensors[key].shape)}, where the base model needs {list(parameter.shape)}.",
                    "Use the base model that the adapter was trained on.",
                )
            if not tensors[key].isfinite().all():
                raise BadConfig(f"{key} has values that are not finite.", "Train the adapter again.")
            parameter.copy_(tensors[key])


def read_method(folder: Path) -> LoraMethod:
    """The method that `adapter_config.json` describes.

    Raises:
        BadConfig: it is missing, broken, or describes what the engine does not have yet.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as broken:
        raise BadConfig(f"The adapter's {CONFIG_FILE} cannot be read ({broken}).", "Fetch it again.") from broken
    if config.get("peft_type") != "LORA":
        raise BadConfig(f"Adapters of type {config.get('peft_type')} cannot be loaded yet.", "Use a LoRA adapter.")
    for key, plain in _PLAIN_LORA.items():
        if (value := config.get(key)) not in (plain, None):
            raise BadConfig(
                f"LoRA with {key} = {value!r} cannot be loaded yet.", f"Use an adapter with {key} = {plain!r}."
            )
    return LoraMethod(
        rank=config["r"],
        alpha=config["lora_alpha"],
        dropout=config.get("lora_dropout", 0.0),
        target_modules=_read_targets(config, folder),
    )


def _read_targets(config: dict[str, Any], folder: Path) -> Literal["all-linear"] | list[str]:
    """The configured names; where PEFT's pick is finer (a pattern, some layers only), the paths in the weights file."""
    targets = config.get("target_modules")
    if targets == "all-linear":
        return "all-linear"
    if isinstance(targets, list) and not config.get("layers_to_transform") and not config.get("exclude_modules"):
        return sorted(targets)
    with _open_weights(folder) as weights:
        suffix = f".{_SUFFIXES['lora_a']}"
        keys = [key for key in weights.keys() if key.endswith(suffix)]  # noqa: SIM118
    return sorted(key[len(_PREFIX) : -len(suffix)] for key in keys)


def _open_weights(folder: Path) -> Any:
    try:
        return safe_open(folder / WEIGHTS_FILE, framework="pt")
    except (OSError, SafetensorError) as broken:
        raise BadConfig(f"The adapter's {WEIGHTS_FILE} cannot be read ({broken}).", "Fetch it again.") from broken


def _peft_key(name: str) -> str:
    path, _, matrix = name.rpartition(".")
    return f"{_PREFIX}{path}.{_SUFFIXES[matrix]}"


def _target_modules(adapter: LoraAdapter) -> list[str]:
    """What was asked for; `all-linear` is written out, because servers want a list."""
    if adapter.method.target_modules != "all-linear":
        return sorted(adapter.method.target_modules)
    return sorted({path.rpartition(".")[2] for path in adapter.layers})


def _whole(value: float) -> float | int:
    """PEFT types alpha as an integer, and so do some of its readers."""
    return int(value) if value.is_integer() else value
