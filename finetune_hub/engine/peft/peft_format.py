"""Adapter files in PEFT's format, which PEFT, vLLM, llama.cpp's converter and others read.

    adapter_config.json         settings, with PEFT's names
    adapter_model.safetensors   tensors in float32: see `peft_lora` and the other modules here

PEFT's names are used only in these modules. Only a small, stable set of keys is written, as old readers warn about
unknown ones. Source: PEFT 0.21, `peft/utils/save_and_load.py`, as documented under "Adapter checkpoint format".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.methods import ENGINE_METHODS, attach_method, spelling_of
from finetune_hub.spec.methods.method import Method

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


def write_adapter(folder: Path, adapter: Adapter, *, base_model_name: str) -> None:
    """Write both files to the folder, which is created if it is missing."""
    spelling = spelling_of(adapter)
    write_files(folder, spelling.tensors_of(adapter), spelling.config_of(adapter), base_model_name=base_model_name)


def write_files(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], *, base_model_name: str) -> None:
    """Write tensors and settings that already have PEFT's names."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {key: tensor.detach().float().cpu().contiguous() for key, tensor in tensors.items()}
    save_file(stored, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        "base_model_name_or_path": base_model_name,
        "inference_mode": True,
        "revision": None,
        "task_type": "CAUSAL_LM",
        **config,
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def attach_adapter(model: PreTrainedModel, folder: Path) -> Adapter:
    """Read an adapter, ours or PEFT's, and attach it to its base model.

    Raises:
        BadConfig: the files are missing or broken, or do not belong to this base model.
    """
    adapter = attach_method(model, read_method(folder))
    load_weights(adapter, folder)
    return adapter


def load_weights(adapter: Adapter, folder: Path) -> None:
    """Copy the folder's tensors into an attached adapter; keys and shapes must match exactly.

    Raises:
        BadConfig: they do not match, or values are not finite.
    """
    tensors = _read_weights(folder)
    expected = spelling_of(adapter).tensors_of(adapter)
    missing, unexpected = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unexpected:
        example = (missing or unexpected)[0]
        raise BadConfig(
            f"The adapter does not fit the base model: {len(missing)} tensors are missing and {len(unexpected)} are "
            f"unexpected, such as {example}.",
            "Use the base model that the adapter was trained on.",
        )
    for key, tensor in expected.items():
        if tensor.shape != tensors[key].shape:
            raise BadConfig(
                f"{key} has shape {list(tensors[key].shape)}, where the base model needs {list(tensor.shape)}.",
                "Use the base model that the adapter was trained on.",
            )
        if not tensors[key].isfinite().all():
            raise BadConfig(f"{key} has values that are not finite.", "Train the adapter again.")
    spelling_of(adapter).load(adapter, tensors)


def read_method(folder: Path) -> Method:
    """Read the method from `adapter_config.json`.

    Raises:
        BadConfig: it is missing, broken, or describes something that the engine does not support.
    """
    config = _read_config(folder)
    spellings = {method.spelling.PEFT_TYPE: method.spelling for method in ENGINE_METHODS.values()}
    kind = config.get("peft_type")
    if kind not in spellings:
        raise BadConfig(f"Adapters of type {kind} cannot be loaded.", f"Use one of type {', '.join(spellings)}.")
    return spellings[kind].read_method(config, _read_weights(folder))


def read_base_model_name(folder: Path) -> str:
    """Read the base model's name from `adapter_config.json`; empty if it has none.

    Raises:
        BadConfig: it is missing or broken.
    """
    return _read_config(folder).get("base_model_name_or_path") or ""


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as broken:
        raise BadConfig(f"The adapter's {CONFIG_FILE} cannot be read ({broken}).", "Fetch it again.") from broken
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    try:
        return load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as broken:
        raise BadConfig(f"The adapter's {WEIGHTS_FILE} cannot be read ({broken}).", "Fetch it again.") from broken
