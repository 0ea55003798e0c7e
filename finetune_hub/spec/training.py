"""One model of a training run, shared by the form, the REST body, the CLI, the YAML recipe and `run.json`.

Each field's unit, default, range and effect are defined only here. `spec_version` is the version of the document's
schema; `upgrade` converts older ones, so that stored specs stay readable.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, model_validator

from finetune_hub import plugins
from finetune_hub.spec.duration import Duration, seconds_of
from finetune_hub.spec.methods.low_rank import LoraMethod
from finetune_hub.spec.methods.registry import AnyMethod, method_type
from finetune_hub.spec.numbers import LARGEST
from finetune_hub.spec.objectives.registry import AnyObjective
from finetune_hub.spec.objectives.sft import SftObjective
from finetune_hub.spec.part import Part

plugins.load("spec")  # A spec may use the plugins' methods and objectives.

SPEC_VERSION: Final = 1

Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$",
        description="Lower-case letters and digits, with single '-', '.' or '_' between them.",
    ),
]


class DatasetChoice(Part):
    """One dataset of the run, by its registered name or, without a hub, by a path."""

    name: Name | None = Field(None, description="A registered dataset.")
    version: int | None = Field(None, ge=1, le=LARGEST, description="Its version; the newest by default.")
    path: str | None = Field(None, description="A local file, for runs without a hub.")
    weight: float = Field(
        1.0, gt=0, le=100, description="How often its rows are drawn, relative to the other datasets."
    )

    @model_validator(mode="after")
    def _exactly_one_source(self) -> DatasetChoice:
        if (self.name is None) == (self.path is None):
            raise ValueError("give either `name` (a registered dataset) or `path` (a local file)")
        return self


class TrainingOptions(Part):
    """Batches, optimizer and learning rate."""

    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the data.")
    max_steps: int | None = Field(
        None, ge=1, le=2**31 - 1, description="Stop after this many optimizer steps, regardless of `epochs`."
    )
    micro_batch_size: int = Field(4, ge=1, le=1024, description="Rows in one forward pass; memory grows with it.")
    gradient_accumulation_steps: int = Field(1, ge=1, le=1024, description="Forward passes in one optimizer step.")
    max_seq_len: int = Field(
        1024, ge=16, le=1_048_576, description="Context length in tokens; longer rows are truncated at the end."
    )
    learning_rate: float = Field(
        LoraMethod.default_learning_rate,
        gt=0,
        le=1,
        description="Peak learning rate; by default the method's own. LoRA needs about 10x that of full fine-tuning.",
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="How the learning rate decays after warm-up."
    )
    warmup_ratio: float = Field(
        0.03, ge=0, le=1, description="Share of the steps during which the learning rate rises from 0."
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw",
        description="AdamW. 8-bit averages save six bytes per trained parameter; paged ones move to the host "
        "when the GPU is full. 8-bit needs bitsandbytes, paging needs a CUDA GPU.",
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW's decoupled weight decay.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this norm.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of each target's probability spread over the whole vocabulary."
    )
    neftune_alpha: float = Field(
        0.0,
        ge=0,
        le=100,
        description="NEFTune: strength of the noise on embeddings while training; 5 is usual, 0 is off.",
    )
    packing: bool = Field(
        True,
        description="Concatenate the rows of a micro-batch, isolated and without padding. "
        "If off, each row is a separate pass: same numbers, slower.",
    )
    seed: int = Field(7, ge=0, le=2**31 - 1, description="The same seed, data and machine give the same adapter.")
    checkpoint_every_steps: int = Field(
        50, ge=1, le=LARGEST, description="Optimizer steps between checkpoints; a crash loses at most this many."
    )


class EvaluationOptions(Part):
    """Rows held out of training, and how they are used."""

    fraction: float = Field(
        0.0, ge=0, le=0.5, description="Share of each dataset's rows held out of training; 0 for none."
    )
    every_steps: int = Field(
        50, ge=1, description="Optimizer steps between evaluations; the last step is evaluated too."
    )
    samples: int = Field(0, ge=0, le=32, description="Held-out rows answered at each evaluation, for people to read.")
    sample_tokens: int = Field(64, ge=1, le=1024, description="Maximum length of such an answer, in tokens.")
    early_stopping_patience: int | None = Field(
        None, ge=1, le=LARGEST, description="Stop after this many evaluations without a lower loss; never by default."
    )
    keep_best: bool = Field(
        True, description="Publish the weights with the lowest held-out loss instead of the last ones."
    )


class RuntimeOptions(Part):
    """Device, number format and limits of the run."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Number format of the frozen base model; `auto` measures the device and uses float32 or "
        "bfloat16. float16 is for GPUs without bfloat16; its loss is scaled.",
    )
    activation_checkpointing: bool = Field(
        False, description="Keep only each layer's input and recompute the rest: slower, far less memory."
    )
    activation_offload: bool = Field(
        False, description="Keep activations in host memory until the backward pass; CUDA only, slower."
    )
    compile: bool = Field(
        False, description="Compile the layers with torch.compile: minutes of warm-up, then often faster on a GPU."
    )
    gpus: int = Field(
        1, ge=1, le=64, description="Processes that share each step's micro-batches, one per device, on one machine."
    )
    shard_base_model: bool = Field(
        False,
        description="Shard the frozen base model over the GPUs (FSDP2) if it does not fit on one: slower. "
        "Needs `gpus` above 1 and weights in 16 or 32 bits.",
    )
    max_duration: Duration | None = Field(
        None,
        description="Stop after this long, such as `4h` or in seconds, and publish what is trained by then. Loading "
        "counts, waiting in the queue does not. Never by default.",
    )
    on_out_of_memory: Literal["fail", "shrink"] = Field(
        "fail",
        description="If memory runs out, fail the job, or continue with half the micro-batch size at the same global "
        "batch size, and finally with activation checkpointing.",
    )

    @property
    def max_duration_seconds(self) -> int | None:
        return None if self.max_duration is None else seconds_of(self.max_duration)

    device: str | None = Field(
        None,
        min_length=1,
        max_length=60,
        description="Words that describe the device to use, such as `cpu`, `h100` or `a100 80gb`; "
        "by default the smallest with enough memory, preferably a GPU.",
    )
    labels: list[Annotated[str, Field(min_length=1, max_length=40)]] = Field(
        default_factory=list, max_length=8, description="Labels that the worker must have."
    )

    @model_validator(mode="after")
    def _shards_over_several(self) -> RuntimeOptions:
        if self.shard_base_model and self.gpus == 1:
            raise ValueError("`shard_base_model` needs several GPUs: raise `gpus`, or set it to false")
        return self


class TrainingSpec(Part):
    """A whole training run."""

    spec_version: Literal[1] = SPEC_VERSION
    base_model: Annotated[
        str,
        Field(
            min_length=1,
            max_length=255,
            description="A registered base model; without a hub, a folder, a known name or an id on Hugging Face.",
        ),
    ]
    datasets: list[DatasetChoice] = Field(min_length=1, max_length=16)
    adapter_name: Name | None = Field(
        None, description="The adapter to publish to; by default named after the data and model."
    )
    method: AnyMethod = Field(default_factory=LoraMethod)
    objective: AnyObjective = Field(default_factory=SftObjective)
    training: TrainingOptions = Field(default_factory=TrainingOptions)
    evaluation: EvaluationOptions = Field(default_factory=EvaluationOptions)
    runtime: RuntimeOptions = Field(default_factory=RuntimeOptions)

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, document: Any) -> Any:
        return upgrade(document) if isinstance(document, dict) else document

    @model_validator(mode="after")
    def _spreads_no_packed_weights(self) -> TrainingSpec:
        if self.runtime.shard_base_model and self.method.base_bits is not None:
            raise ValueError(
                "`runtime.shard_base_model` cannot shard a quantised base model: set it to false, or use method `lora`"
            )
        return self


def upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document in the current schema, with defaults that depend on another part filled in.

    `dataset: {…}` is the short form of a single entry of `datasets`; the learning rate defaults to the method's.
    """
    document = dict(document)
    if "dataset" in document and "datasets" not in document:
        document["datasets"] = [document.pop("dataset")]
    method, training = method_type(document.get("method", {})), document.get("training", {})
    if method is not None and isinstance(training, dict):
        document["training"] = {"learning_rate": method.default_learning_rate, **training}
    return document
