"""Plans for the hub's own devices: the pure planner of `scheduling`, fed with rows, facts and finished runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_hub.accounts.models import Team
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.catalog.preview import measured_rows
from finetune_hub.fleet.models import Device
from finetune_hub.jobs.actions import find_base_model, find_dataset_version
from finetune_hub.jobs.models import Attempt, Job
from finetune_hub.scheduling.answer import PlanAnswer
from finetune_hub.scheduling.changes import changed
from finetune_hub.scheduling.devices import PlannedDevice, device_of
from finetune_hub.scheduling.facts import Shape
from finetune_hub.scheduling.fitting import plan_on
from finetune_hub.scheduling.learning import FinishedRun
from finetune_hub.scheduling.memory import MemoryEstimate, estimate_memory
from finetune_hub.scheduling.speed import seconds_per_step
from finetune_hub.scheduling.workload import Rows, Workload
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.run import ModelFacts
from finetune_hub.spec.training import TrainingSpec

LEARNT_ATTEMPTS = 50


def plan_training(team: Team, spec: TrainingSpec) -> PlanAnswer:
    """The spec on every kind of device that the hub has.

    Raises:
        Refusal: `unknown_base_model`, `base_model_not_ready`, `unknown_dataset`, `path_not_allowed`,
            `base_model_without_facts`.
    """
    base_model = find_base_model(team, spec.base_model)
    shape = shape_of(base_model)
    versions = [find_dataset_version(team, choice) for choice in spec.datasets]
    try:
        rows, known = measured(versions, base_model), "The rows' lengths are those of the base model's own tokenizer."
    except (Refusal, ArtifactError):
        rows, known = guessed(versions), "The rows' lengths are guessed from the file's size: four bytes a token."
    runs = finished_runs()
    kinds = Counter(planned_device(device) for device in Device.objects.filter(present=True))
    plans = [(plan_on(spec, shape, device, rows, runs), count) for device, count in kinds.items()]
    assumptions = [known]
    if not shape.is_understood:
        assumptions.append("The model's layers are of a kind that planning knows roughly; expect larger errors.")
    if spec.runtime.dtype == "auto":
        assumptions.append("`dtype: auto` is taken for bfloat16 on a GPU, and on a CPU for float32, which needs more.")
    return PlanAnswer.of(plans, gpus=spec.runtime.gpus, assumptions=assumptions)


def shape_of(base_model: BaseModel) -> Shape:
    """Raises:
    Refusal: `base_model_without_facts`.
    """
    try:
        return Shape(ModelFacts.model_validate(base_model.facts))
    except ValidationError as error:
        raise Refusal(
            "base_model_without_facts",
            f"Nothing is known about the layers of the base model {base_model.name!r}.",
            "Import it again: an import reads them from its config.",
            field="base_model",
            status=409,
        ) from error


def measured(versions: Sequence[DatasetVersion], base_model: BaseModel) -> Rows:
    """The rows of several datasets together, through the base model's template; a sample counts for all its rows.

    Raises:
        Refusal: the template cannot be used, or no row can be rendered.
        ArtifactError: the store does not have a file.
    """
    samples = [[row for row in measured_rows(version, base_model) if not row.problem] for version in versions]
    shares = [version.row_count / max(1, len(sample)) for version, sample in zip(versions, samples, strict=True)]
    rows = [row for sample, share in zip(samples, shares, strict=True) for row in sample * round(share / min(shares))]
    if not rows:
        raise Refusal("unrenderable_row", "The chat template refuses every row.", "Look at the dataset's preview.")
    tokens = sum(row.tokens for row in rows)
    return Rows(
        count=sum(version.row_count for version in versions),
        lengths=[row.tokens for row in rows],
        supervised_share=sum(row.supervised_within(row.tokens) for row in rows) / tokens,
    )


def guessed(versions: Sequence[DatasetVersion]) -> Rows:
    """The same from their sizes alone."""
    count = sum(version.row_count for version in versions)
    return Rows.guessed(count, sum(version.size_bytes for version in versions))


def planned_device(device: Device) -> PlannedDevice:
    return device_of(device.kind, device.name, device.memory_bytes)


def finished_runs() -> list[FinishedRun]:
    """What the newest finished trainings teach: measured, and estimated anew from their spec and their own tokens."""
    runs = (learnt_from(attempt) for attempt in Attempt.objects.to_learn_from(LEARNT_ATTEMPTS))
    return [run for run in runs if run is not None]


def learnt_from(attempt: Attempt) -> FinishedRun | None:
    """One attempt `with_measures()`; None: its model or its device is not known well enough."""
    estimate = estimate_of(attempt)
    if estimate is None:
        return None
    device, seconds = estimate.device, estimate.seconds_per_step
    return FinishedRun(
        device_kind=device.kind,
        device_name=device.name,
        method=attempt.job.spec["method"]["type"],
        estimated_bytes=estimate.memory.peak_bytes,
        memory_ratio=attempt.peak_bytes / estimate.measurable_bytes,
        time_ratio=attempt.mean_seconds / seconds if seconds and attempt.mean_seconds else None,
    )


@dataclass(frozen=True)
class Estimate:
    """What the formulas say of a run whose tokens are known."""

    device: PlannedDevice
    memory: MemoryEstimate
    seconds_per_step: float | None

    @property
    def measurable_bytes(self) -> float:
        return self.memory.measurable_bytes(self.device.kind)


def estimate_of(attempt: Attempt) -> Estimate | None:
    """The estimate of an attempt that has run, by the tokens that it met; None: model or device is unknown."""
    row = next(iter(attempt.devices.all()), None)
    try:
        shape, spec = shape_of(attempt.job.over), attempt.job.training_spec()
    except Refusal:
        return None
    if row is None:
        return None
    micro_batches = spec.training.gradient_accumulation_steps
    load = Workload(
        micro_batch_tokens=attempt.most_tokens / micro_batches,
        longest_row=min(spec.training.max_seq_len, attempt.most_tokens / micro_batches),
        supervised_share=attempt.mean_supervised / attempt.mean_tokens,
        steps=attempt.job.total_steps or 1,
        tokens_per_step=attempt.mean_tokens,
        micro_batches_per_step=micro_batches,
    )
    dtype = (attempt.job.result or {}).get("dtype")
    if dtype is not None:  # What `auto` came to.
        spec = changed(spec, {"runtime.dtype": dtype})
    device = planned_device(row)
    return Estimate(device, estimate_memory(spec, shape, device, load), seconds_per_step(spec, shape, device, load))


@dataclass(frozen=True)
class Comparison:
    """A run's estimate beside what it took so far."""

    estimated_bytes: float
    measured_bytes: int
    estimated_seconds: float | None
    measured_seconds: float

    @property
    def memory_error(self) -> float:
        """Of the estimate, relative to what was measured."""
        return self.estimated_bytes / self.measured_bytes - 1


def compare_with_estimate(job: Job) -> Comparison | None:
    """The newest attempt that has taken a few steps; None: there is none, or its model or device is unknown."""
    attempt = Attempt.objects.filter(job=job).with_measures().order_by("-number").first()
    estimate = None if attempt is None else estimate_of(attempt)
    if attempt is None or estimate is None:
        return None
    return Comparison(estimate.measurable_bytes, attempt.peak_bytes, estimate.seconds_per_step, attempt.mean_seconds)
