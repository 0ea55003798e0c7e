"""Export an adapter: for PEFT, in the portable form, merged, or for llama.cpp. Every export is reloaded and checked.

    peft           adapter_config.json  adapter_model.safetensors
    portable       the same two, with one rank and one scale: for vLLM, LoRAX and llama.cpp's converter
    merged         the base model with the adapter merged in: a folder in transformers' format, in shards
    gguf-adapter   adapter.gguf         for use with any GGUF of the base model
    gguf-merged    model.gguf

Only one model is in memory at a time, in its stored dtype, and files are written tensor by tensor.
For merging onto a base in 4 or 8 bits see `adapters.merge.merge_dense`.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from finetune_hub.artifacts.manifest import manifest_of
from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.adapters.merge import DenseBase, merge_dense, merge_for_good
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.exports import check
from finetune_hub.engine.model import load_base_model, read_config
from finetune_hub.engine.peft import peft_format, peft_lora
from finetune_hub.engine.quantization import Quantization
from finetune_hub.machine.durable_files import sync_folder
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.events import Progress
from finetune_hub.spec.model_files import TOKENIZER_FILES
from finetune_hub.spec.run import ExportResult, ExportRun, NumberFormat

EXPORT_DIR = "export"
SHARD_BYTES = "4GB"
MERGED_FILES = (*TOKENIZER_FILES, "generation_config.json")
_DTYPES = {name: dtype for dtype, name in check.FORMAT_OF.items()}
_ADAPTERS = ("peft", "portable", "gguf-adapter")  # Formats without the base model.


@dataclass
class ExportUnderWay:
    """An export in progress."""

    run: ExportRun
    folder: Path
    """A temporary folder for the files; it is renamed once they pass the check."""
    number_format: NumberFormat
    adapter: Any  # An Adapter; a LoraAdapter for formats whose `_check_format` requires it.
    reference: check.ReferenceLogits
    merged_onto: DenseBase | None = None
    merge_distances: dict[DenseBase, float] | None = None

    @property
    def base_model_name(self) -> str:
        """The base model's name in the adapter's config."""
        return peft_format.read_base_model_name(self.run.adapter_dir) or self.run.base_model_dir.name

    def compare(self, model: PreTrainedModel) -> check.Agreement:
        """Compare the reloaded model with what was trained."""
        return check.compare(self.reference, model, rounded_to=self.number_format, computed_in=model.dtype)


def export(run: ExportRun, log: EventLog) -> ExportResult:
    """Write the files, check them by loading them back, and rename their folder.

    Raises:
        BadConfig: the format does not support this adapter or base model; the remedy names one that does.
        UnfaithfulAdapter: the reloaded files compute something else.
    """
    unfinished, folder = run.output_dir / f".{EXPORT_DIR}.unfinished", run.output_dir / EXPORT_DIR
    for old in (unfinished, folder):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        work = _load(run, unfinished)
        log.emit(Progress(done=1, total=3, unit="parts"))
        load_back = _WRITERS[run.format](work)
        log.emit(Progress(done=2, total=3, unit="parts"))
        agreement = load_back()
        unfinished.rename(folder)
        sync_folder(run.output_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    log.emit(Progress(done=3, total=3, unit="parts"))
    for warning in agreement.warnings:
        log.warn(warning)
    return ExportResult(
        format=run.format,
        number_format=work.number_format,
        files=manifest_of(folder),
        distance=agreement.distance,
        tolerance=agreement.tolerance,
        moved=agreement.moved,
        merged_onto=work.merged_onto,
        merge_distances=work.merge_distances,
        warnings=agreement.warnings,
    )


def _load(run: ExportRun, folder: Path) -> ExportUnderWay:
    """Load the adapted model and its logits, in the stored dtype or that of the merge."""
    config = read_config(run.base_model_dir)
    stored = config.dtype if config.dtype in check.FORMAT_OF else torch.float32
    number_format = run.number_format
    if number_format == "auto":
        number_format = "f32" if run.format in _ADAPTERS else check.FORMAT_OF[stored]
    _check_format(run, number_format, config)
    dtype = stored if run.format in _ADAPTERS else _DTYPES.get(number_format, stored)
    quantization = None if run.quantization is None else Quantization(run.quantization, run.double_quantization)
    model = load_base_model(run.base_model_dir, dtype=dtype, device=run.device, quantization=quantization)
    ids = check.sample_ids(run.base_model_dir, config.get_text_config().vocab_size)
    adapter = peft_format.attach_adapter(model, run.adapter_dir)
    return ExportUnderWay(run, folder, number_format, adapter, check.reference_of(adapter, ids))


def _check_format(run: ExportRun, number_format: NumberFormat, config: Any) -> None:
    """Refuse unsupported combinations before loading anything.

    Raises:
        BadConfig: with the format to use instead.
    """
    if run.format in ("peft", "portable") and number_format != "f32":
        raise BadConfig("Adapters in PEFT's format are always float32.", "Omit the number format.")
    if run.format == "merged" and number_format == "q8_0":
        raise BadConfig("safetensors does not support q8_0.", "Export `gguf-merged` instead, or use f32, f16 or bf16.")
    if run.format.startswith("gguf"):
        from finetune_hub.engine.exports.gguf_family import GgufSpelling

        GgufSpelling(config)
    method = peft_format.read_method(run.adapter_dir)
    if run.format != "peft" and not method.is_lora:
        raise BadConfig(
            f"`{run.format}` needs a LoRA adapter, and this one is of type {method.type}.",
            "Export it as `peft`, and serve it with PEFT.",
        )


# ---- one writer per format: it writes into the export's folder and returns a function that loads it back


def _write_peft(work: ExportUnderWay) -> Callable[[], check.Agreement]:
    peft_format.write_adapter(work.folder, work.adapter, base_model_name=work.base_model_name)
    return lambda: _reattach(work)


def _write_portable(work: ExportUnderWay) -> Callable[[], check.Agreement]:
    peft_format.write_files(work.folder, *peft_lora.portable(work.adapter), base_model_name=work.base_model_name)
    return lambda: _reattach(work)


def _reattach(work: ExportUnderWay) -> check.Agreement:
    model: PreTrainedModel = work.adapter.model
    work.adapter.remove()
    peft_format.attach_adapter(model, work.folder)
    return work.compare(model)


def _write_merged(work: ExportUnderWay) -> Callable[[], check.Agreement]:
    model = _merge(work)
    model.save_pretrained(work.folder, max_shard_size=SHARD_BYTES)
    for name in MERGED_FILES:
        if (source := work.run.base_model_dir / name).is_file():
            shutil.copyfile(source, work.folder / name)
    dtype, device = model.dtype, model.device
    work.adapter = None
    del model
    gc.collect()

    def load_back() -> check.Agreement:
        loaded: Any = AutoModelForCausalLM.from_pretrained(work.folder, dtype=dtype, local_files_only=True)
        return work.compare(loaded.to(device).eval())

    return load_back


def _write_gguf_merged(work: ExportUnderWay) -> Callable[[], check.Agreement]:
    from finetune_hub.engine.exports import gguf_file

    model = _merge(work)
    path = work.folder / "model.gguf"
    gguf_file.write_merged(
        path, model, folder=work.run.base_model_dir, name=work.base_model_name, number_format=work.number_format
    )

    def load_back() -> check.Agreement:
        gguf_file.read_merged(path, model)
        return work.compare(model)

    return load_back


def _write_gguf_adapter(work: ExportUnderWay) -> Callable[[], check.Agreement]:
    from finetune_hub.engine.exports import gguf_file

    adapter, model = work.adapter, work.adapter.model
    tensors, settings = peft_lora.portable(adapter)
    path = work.folder / "adapter.gguf"
    factors = peft_lora.factors_in(tensors)
    gguf_file.write_adapter(
        path, factors, alpha=settings["lora_alpha"], config=model.config, number_format=work.number_format
    )

    def load_back() -> check.Agreement:
        found, alpha = gguf_file.read_adapter(path, list(factors), model.config)
        adapter.remove()
        _attach_factors(model, found, settings | {"lora_alpha": alpha})
        return work.compare(model)

    return load_back


def _attach_factors(
    model: PreTrainedModel, factors: dict[str, tuple[Tensor, Tensor]], settings: dict[str, Any]
) -> Adapter:
    tensors = peft_lora.keyed(factors)
    adapter = LoraAdapter.attach(model, peft_lora.read_method(settings, tensors))
    peft_lora.load(adapter, tensors)
    return adapter


def _merge(work: ExportUnderWay) -> PreTrainedModel:
    """Return the model with the update merged into its weights."""
    adapter: LoraAdapter = work.adapter
    if work.run.quantization is None:
        merge_for_good(adapter)
        return adapter.model
    dtype, device = adapter.model.dtype, str(adapter.model.device)
    merged = merge_dense(
        adapter,
        lambda: load_base_model(work.run.base_model_dir, dtype=dtype, device=device),
        work.reference.input_ids,
    )
    work.merged_onto, work.merge_distances = merged.base, merged.distances
    # Dense weights compute something else than quantised ones: from here on, compare with the merged model.
    work.reference = check.ReferenceLogits(
        work.reference.input_ids, check.logits_of(merged.model, work.reference.input_ids), work.reference.moved
    )
    return merged.model


_WRITERS: dict[str, Callable[[ExportUnderWay], Callable[[], check.Agreement]]] = {
    "peft": _write_peft,
    "portable": _write_portable,
    "merged": _write_merged,
    "gguf-adapter": _write_gguf_adapter,
    "gguf-merged": _write_gguf_merged,
}
