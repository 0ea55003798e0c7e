"""Verify that what is served is what was trained: reload the adapter from its files and compare it with the trainer.

    probe      a few real rows, with the trainer's logits for them at the end of training
    passes if  |logit − trainer's logit| ≤ tolerance everywhere,  and everything is finite
    tolerance  float32: 1e-4.  bfloat16: three times the noise between two runs of the same input, and at least
               four roundings of the largest logit (on a CPU the noise is often zero, but another thread count
               changes the order of summation)

The trainer writes the probe and a fresh process reads it. This detects wrongly saved keys, a wrong scale, or a
different base model before the adapter is published.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from finetune_hub.engine.dataset import TokenRow
from finetune_hub.engine.errors import BadConfig, EngineError
from finetune_hub.engine.model import DTYPES, load_base_model
from finetune_hub.engine.peft import peft_format
from finetune_hub.engine.quantization import Quantization, quantization_in
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.run import VerifyResult, VerifyRun

PROBE_ROWS = 2
PROBE_TOKENS = 256  # Per row; longer rows are truncated to keep the probe cheap.
PROBE_POSITIONS = 8  # Per row, with stored logits: 8 × 2 × 150,000 float32 values are 10 MB.
FLOAT32_TOLERANCE = 1e-4
NOISE_FACTOR = 3
ROUNDINGS = 4


class UnfaithfulAdapter(EngineError):
    """The published files do not compute what was trained."""


def write_probe(path: Path, model: PreTrainedModel, rows: list[TokenRow]) -> None:
    """Write input ids, positions and logits of a few rows, and the noise between two runs."""
    tensors: dict[str, Tensor] = {}
    noise = 0.0
    for number, row in enumerate(rows[:PROBE_ROWS]):
        ids = row.input_ids[:PROBE_TOKENS].long()
        within = row.targets[row.targets < len(ids)].long()
        positions = within[:PROBE_POSITIONS] if len(within) else torch.tensor([len(ids) - 1])
        logits = _logits(model, ids, positions)
        noise = max(noise, _difference(logits, _logits(model, ids, positions)))
        tensors |= {f"input_ids.{number}": ids, f"positions.{number}": positions, f"logits.{number}": logits}
    quantization = quantization_in(model)
    metadata = {
        "noise": json.dumps(noise),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": json.dumps(None if quantization is None else asdict(quantization)),
    }
    save_file(tensors, path, metadata=metadata)


def verify(run: VerifyRun, log: EventLog) -> VerifyResult:
    """Load base model and adapter again and compare.

    Raises:
        BadConfig: the adapter's keys or shapes do not fit the base model.
        UnfaithfulAdapter: the logits differ by more than the tolerance, or are not finite.
    """
    tensors, metadata = _read_probe(run.probe_file)
    dtype, noise = metadata["dtype"], float(metadata["noise"])
    kept_as = json.loads(metadata.get("quantization", "null"))
    quantization = None if kept_as is None else Quantization(**kept_as)
    model = load_base_model(run.base_model_dir, dtype=DTYPES[dtype], device=run.device, quantization=quantization)
    adapter = peft_format.attach_adapter(model, run.adapter_dir)
    difference, largest, moved = 0.0, 0.0, 0.0
    for number in range(len(tensors) // 3):
        ids, positions = tensors[f"input_ids.{number}"], tensors[f"positions.{number}"]
        expected = tensors[f"logits.{number}"]
        logits = _logits(model, ids, positions)
        with adapter.disabled():
            moved = max(moved, _difference(logits, _logits(model, ids, positions)))
        if not bool(logits.isfinite().all() and expected.isfinite().all()):
            raise UnfaithfulAdapter(
                "The reloaded adapter gives logits that are not finite.", "Train again with a lower learning rate."
            )
        difference, largest = max(difference, _difference(logits, expected)), max(largest, expected.abs().max().item())
    tolerance = _tolerance(dtype, noise, largest)
    if difference > tolerance:
        raise UnfaithfulAdapter(
            f"The reloaded adapter's logits differ from the trainer's by {difference:.3g}, more than {tolerance:.3g}.",
            "Check that base model and adapter belong to this run; if they do, this is a bug in the engine.",
        )
    warnings = [] if moved > 0 else ["The adapter has no effect: its logits are those of the base model."]
    for warning in warnings:
        log.warn(warning)
    return VerifyResult(
        max_difference=difference,
        tolerance=tolerance,
        noise=noise,
        dtype=dtype,
        changes_something=moved > 0,
        warnings=warnings,
    )


def _read_probe(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118
    except (OSError, SafetensorError) as broken:
        raise BadConfig(f"The probe {path.name} cannot be read ({broken}).", "Train again.") from broken


def _tolerance(dtype: str, noise: float, largest_logit: float) -> float:
    if dtype == "float32":
        return FLOAT32_TOLERANCE
    return max(NOISE_FACTOR * noise, ROUNDINGS * torch.finfo(DTYPES[dtype]).eps * largest_logit)


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: Tensor, positions: Tensor) -> Tensor:
    """Return (positions, vocabulary) in float32 on the CPU, for one unpacked row and with the model's own head."""
    logits: Tensor = model(input_ids=ids[None].to(model.device), use_cache=False).logits[0]
    return logits[positions.to(logits.device)].float().cpu()


def _difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()
