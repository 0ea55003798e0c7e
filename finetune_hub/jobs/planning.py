"""Plans for the hub's own devices: the pure planner of `scheduling`, fed with rows, facts and finished runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from finetune_hub.accounts.models import Team
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.catalog.choices import find_base_model, find_dataset_version
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.catalog.preview import measured_rows
from finetune_hub.fleet.models import Device
from finetune_hub.jobs.models import Attempt, Job
from finetune_hub.scheduling.changes import changed
from finetune_hub.scheduling.devices import PlannedDevice, device_of
from finetune_hub.scheduling.fitting import DevicePlan, device_bytes_needed, plan_on, uneven_needs
from finetune_hub.scheduling.learning import FinishedRun
from finetune_hub.scheduling.memory import MemoryEstimate, estimate_memory
from finetune_hub.scheduling.plan_answer import PlanAnswer
from finetune_hub.scheduling.presets import Preset, aim_of, make_preset
from finetune_hub.scheduling.speed import seconds_per_step
from finetune_hub.scheduling.workload import Rows, Workload
from finetune_hub.spec.objectives.registry import objective_for
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.shape import ModelFacts, Shape
from finetune_hub.spec.training import DatasetChoice, TrainingSpec

LEARNT_ATTEMPTS = 50
NAMED_ALTERNATIVES = 3

MEASURED = "The rows' lengths are those of the base model's own tokenizer."
GUESSED = "The rows' lengths are guessed from the file's size: four bytes a token."


@dataclass(frozen=True)
class PlanInputs:
    """What a plan is made of but for the spec: the base model's shape, the rows, kinds of devices and finished runs."""

    versions: Sequence[DatasetVersion]
    shape: Shape
    rows: Rows
    rows_in_words: str
    kinds: dict[PlannedDevice, int]
    """Each with how many of it there are, whether busy, drained or offline."""
    together: dict[PlannedDevice, int]
    """Each with how many of it one worker has at most."""
    runs: Sequence[FinishedRun]

    @classmethod
    def of(cls, team: Team, base_model_name: str, choices: Sequence[DatasetChoice]) -> PlanInputs:
        """
        Raises:
            Refusal: `unknown_base_model`, `base_model_not_ready`, `unknown_dataset`, `path_not_allowed`,
                `base_model_without_facts`.
        """
        base_model = find_base_model(team, base_model_name)
        shape = shape_of(base_model)
        versions = [find_dataset_version(team, choice) for choice in choices]
        weights = [choice.weight for choice in choices]
        try:
            rows, known = measured(versions, base_model, weights), MEASURED
        except (Refusal, ArtifactError):
            rows, known = guessed(versions, weights), GUESSED
        by_worker = Counter(
            (device.worker_id, planned_device(device)) for device in Device.objects.filter(present=True)
        )
        kinds: Counter[PlannedDevice] = Counter()
        together: Counter[PlannedDevice] = Counter()
        for (_, device), count in by_worker.items():
            kinds[device] += count
            together[device] = max(together[device], count)
        return cls(versions, shape, rows, known, kinds, together, finished_runs())

    def plans(self, spec: TrainingSpec) -> list[tuple[DevicePlan, int]]:
        """The spec on each kind of device, with how many of it there are."""
        return [
            (plan_on(spec, self.shape, device, self.rows, self.runs, together=self.together[device]), count)
            for device, count in self.kinds.items()
        ]


def plan_training(team: Team, spec: TrainingSpec) -> PlanAnswer:
    """The spec on every kind of device that the hub has.

    Raises:
        Refusal: as `PlanInputs.of`.
    """
    inputs = PlanInputs.of(team, spec.base_model, spec.datasets)
    assumptions = [inputs.rows_in_words]
    if not inputs.shape.is_understood:
        assumptions.append("The model's layers are of a kind that planning knows roughly; expect larger errors.")
    if spec.runtime.dtype == "auto":
        assumptions.append("`dtype: auto` is taken for bfloat16 on a GPU, and on a CPU for float32, which needs more.")
    plans = inputs.plans(spec)
    uneven = uneven_needs([plan for plan, _ in plans])
    assumptions += [uneven] if uneven and spec.runtime.device is None else []
    return PlanAnswer.of(plans, gpus=spec.runtime.gpus, assumptions=assumptions)


def presets_for(team: Team, base_model: str, datasets: Sequence[DatasetChoice], names: Sequence[str]) -> list[Preset]:
    """Trainings filled in for these datasets and this base model, micro batches by the hub's own devices.

    Raises:
        Refusal: `unknown_preset`, or as `PlanInputs.of`.
    """
    for name in names:
        aim_of(name)
    inputs = PlanInputs.of(team, base_model, datasets)
    asked = TrainingSpec(base_model=base_model, datasets=list(datasets))
    asked = asked.model_copy(update={"objective": objective_for(version.kind for version in inputs.versions)})
    return [make_preset(name, asked, inputs.shape, inputs.rows, list(inputs.kinds), inputs.runs) for name in names]


def memory_needed(team: Team, spec: TrainingSpec, *, allow_unfit: bool = False) -> int | None:
    """Bytes of memory that each of the job's devices must have.

    None: nothing is known about the base model's layers, there is no device yet, or it fits none and is allowed to.

    Raises:
        Refusal: `does_not_fit`: no device of the hub has room for it, be it busy, drained or offline.
    """
    try:
        plans = PlanInputs.of(team, spec.base_model, spec.datasets).plans(spec)
    except Refusal as refusal:
        if refusal.code == "base_model_without_facts":
            return None
        raise
    needed = device_bytes_needed([plan for plan, _ in plans])
    if plans and needed is None and not allow_unfit:
        raise _does_not_fit(PlanAnswer.of(plans, gpus=spec.runtime.gpus))
    return needed


def memory_after_shrinking(job: Job) -> int | None:
    """As `memory_needed`, for a training that ran out of memory and has a smaller spec now.

    Where the last attempt had more than was planned and that was not enough, the new plan is raised in proportion.
    """
    try:
        planned = memory_needed(job.team, job.training_spec(), allow_unfit=True)
    except Refusal:  # A dataset has gone since; the next attempt will say so.
        return job.memory_bytes_needed
    last = job.attempts.defer("log_tail").first()
    if planned is None or job.memory_bytes_needed is None or last is None or last.failure_class != "out_of_memory":
        return planned
    had = min(use.memory_bytes or use.device.memory_bytes for use in last.device_uses.select_related("device"))
    return round(planned * max(1.0, had / job.memory_bytes_needed))


def _does_not_fit(answer: PlanAnswer) -> Refusal:
    alternatives = answer.devices[0].alternatives[:NAMED_ALTERNATIVES]
    named = "; ".join(option.sentence() for option in alternatives)
    remedy = f"What would fit: {named}." if named else "Choose a smaller base model, or add a larger device."
    details = [
        {"changes": option.changes, "message": option.words, "remedy": option.sentence()} for option in alternatives
    ]
    return Refusal("does_not_fit", answer.sentence, f"{remedy} `allow_unfit` submits it as it is.", details=details)


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
            kind="conflict",
        ) from error


def measured(versions: Sequence[DatasetVersion], base_model: BaseModel, weights: Sequence[float] = ()) -> Rows:
    """The rows of several datasets together, through the base model's template; a sample counts for all its rows.

    Raises:
        Refusal: the template cannot be used, or no row can be rendered.
        ArtifactError: the store does not have a file.
    """
    samples = [[row for row in measured_rows(version, base_model) if not row.problem] for version in versions]
    drawn = drawn_rows(versions, weights)
    shares = [count / max(1, len(sample)) for count, sample in zip(drawn, samples, strict=True)]
    rows = [row for sample, share in zip(samples, shares, strict=True) for row in sample * round(share / min(shares))]
    if not rows:
        raise Refusal("unrenderable_row", "The chat template refuses every row.", "Look at the dataset's preview.")
    tokens = sum(row.tokens for row in rows)
    return Rows(
        count=sum(drawn),
        lengths=[row.tokens for row in rows],
        supervised_share=sum(row.supervised_within(row.tokens) for row in rows) / tokens,
    )


def guessed(versions: Sequence[DatasetVersion], weights: Sequence[float] = ()) -> Rows:
    """The same from their sizes alone."""
    drawn = drawn_rows(versions, weights)
    size_bytes = sum(
        count * version.size_bytes / version.row_count for count, version in zip(drawn, versions, strict=True)
    )
    return Rows.guessed(sum(drawn), round(size_bytes))


def drawn_rows(versions: Sequence[DatasetVersion], weights: Sequence[float]) -> list[int]:
    """How many rows of each an epoch draws: all of the least-weighted one, as `engine.dataset` does."""
    weights = weights or [1.0] * len(versions)
    return [round(version.row_count * weight / min(weights)) for version, weight in zip(versions, weights, strict=True)]


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
class EstimateCheck:
    """A run's estimate beside what it took so far."""

    estimated_bytes: float
    measured_bytes: int
    estimated_seconds: float | None
    measured_seconds: float

    @property
    def memory_error(self) -> float:
        """Of the estimate, relative to what was measured."""
        return self.estimated_bytes / self.measured_bytes - 1


def compare_with_estimate(job: Job) -> EstimateCheck | None:
    """The newest attempt that has taken a few steps; None: there is none, or its model or device is unknown."""
    attempt = Attempt.objects.filter(job=job).with_measures().order_by("-number").first()
    estimate = None if attempt is None else estimate_of(attempt)
    if attempt is None or estimate is None:
        return None
    return EstimateCheck(estimate.measurable_bytes, attempt.peak_bytes, estimate.seconds_per_step, attempt.mean_seconds)
