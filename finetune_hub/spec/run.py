"""The documents that a worker hands to the engine: one JSON file per command, paths resolved, nothing left to look up.

`python -m finetune_hub.engine <command> <file>` reads one of these, writes into `output_dir` and nowhere else:
    events.jsonl   what happens, one `spec.events` line each
    result.json    what came out; written last, atomically, only on success
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from finetune_hub.spec.training import Part, TrainingSpec

DeviceKind = Literal["cpu", "cuda"]


class DatasetFile(Part):
    path: Path
    sha256: str = Field(description="Checked before the first row is read.")
    weight: float = 1.0


class TrainRun(Part):
    """Train one adapter. Writes `adapter/` (PEFT's format), `probe.safetensors` and `checkpoints/step-N/`."""

    spec: TrainingSpec
    base_model_dir: Path
    base_model_name: str = Field(description="Written to `adapter_config.json` as `base_model_name_or_path`.")
    datasets: list[DatasetFile] = Field(min_length=1)
    output_dir: Path
    resume_from: Path | None = Field(None, description="A checkpoint folder; the run goes on exactly where it was written.")
    device: DeviceKind = "cpu"
    threads: int | None = Field(None, ge=1, description="CPU threads; torch's own choice when left out.")


class VerifyRun(Part):
    """Reload a trained adapter from its files in a fresh process and compare its logits with the trainer's (P5)."""

    base_model_dir: Path
    adapter_dir: Path
    probe_file: Path
    output_dir: Path
    device: DeviceKind = "cpu"
    threads: int | None = None


class EvaluateRun(Part):
    """Answer held-out rows with and without an adapter and count exact matches of the last assistant turn."""

    base_model_dir: Path
    adapter_dir: Path
    datasets: list[DatasetFile] = Field(min_length=1)
    output_dir: Path
    max_rows: int | None = Field(None, ge=1)
    max_new_tokens: int = Field(256, ge=1, le=8192)
    batch_size: int = Field(16, ge=1)
    device: DeviceKind = "cpu"
    threads: int | None = None


class ImportRun(Part):
    """Turn a GGUF file, or a folder of safetensors, into a base model folder (safetensors, config, tokenizer)."""

    source: Path = Field(description="A GGUF file, or a folder in transformers' format.")
    output_dir: Path = Field(description="The model is written to `model/` below it.")
