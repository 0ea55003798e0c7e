"""Plans for the hub's own devices: calls the pure planner of `scheduling` with rows, facts and finished runs."""

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

MEASURED = "Row lengths were measured with the base model's own tokenizer."
GUESSED = "Row lengths were guessed from the file's size: four bytes per token."


@dataclass(frozen=True)
class PlanInputs:
    """The inputs of a plan apart from the spec: the base model's shape, rows, kinds of device and finished runs."""

    versions: Sequence[DatasetVersion]
    shape: Shape
    rows: Rows
    rows_in_words: str
    kinds: dict[PlannedDevice, int]
    """Kind of device → how many there are, including busy, drained and offline ones."""
    together: dict[PlannedDevice, int]
    """Kind of device → the most that one worker has."""
    runs: Sequence[FinishedRun]

    @classmethod
    def of(cls, team: Team, base_model_name: str, choices: Sequence[DatasetChoice]) -> PlanInputs:
        """Collect the inputs for a base model and datasets.

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
        """Return the plan for each kind of device, with how many there are."""
        return [
            (plan_on(spec, self.shape, device, self.rows, self.runs, together=self.together[device]), count)
            for device, count in self.kinds.items()
        ]


def plan_training(team: Team, spec: TrainingSpec) -> PlanAnswer:
    """Plan the spec on every kind of device that the hub has.

    Raises:
        Refusal: as `PlanInputs.of`.
    """
    inputs = PlanInputs.of(team, spec.base_model, spec.datasets)
    assumptions = [inputs.rows_in_words]
    if not inputs.shape.is_understood:
        assumptions.append("The planner knows this model's kind of layers only roughly; expect larger errors.")
    if spec.runtime.dtype == "auto":
        assumptions.append("`dtype: auto` counts as bfloat16 on a GPU and as float32, which needs more, on a CPU.")
    plans = inputs.plans(spec)
    uneven = uneven_needs([plan for plan, _ in plans])
    assumptions += [uneven] if uneven and spec.runtime.device is None else []
    return PlanAnswer.of(plans, gpus=spec.runtime.gpus, assumptions=assumptions)


def presets_for(team: Team, base_model: str, datasets: Sequence[DatasetChoice], names: Sequence[str]) -> list[Preset]:
    """Return presets for these datasets and this base model, with micro-batches that fit the hub's own devices.

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
    """Return the bytes of memory that each of the job's devices must have.

    None: the base model's layers are unknown, there is no device yet, or no device fits and `allow_unfit` is set.

    Raises:
        Refusal: `does_not_fit`: no device of the hub has room for it, including busy, drained and offline ones.
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
    """Return `memory_needed` for a training that ran out of memory and now has a smaller spec.

    If the last attempt had more memory than planned and still ran out, the new plan is raised in proportion.
    """
    try:
        planned = memory_needed(job.team, job.training_spec(), allow_unfit=True)
    except Refusal:  # A dataset was deleted since; the next attempt will report it.
        return job.memory_bytes_needed
    last = job.attempts.defer("log_tail").first()
    if planned is None or job.memory_bytes_needed is None or last is None or last.failure_class != "out_of_memory":
        return planned
    had = min(use.memory_bytes or use.device.memory_bytes for use in last.device_uses.select_related("device"))
    return round(planned * max(1.0, had / job.memory_bytes_needed))


def _does_not_fit(answer: PlanAnswer) -> Refusal:
    alternatives = answer.devices[0].alternatives[:NAMED_ALTERNATIVES]
    named = "; ".join(option.sentence() for option in alternatives)
    remedy = f"What would fit: {named}." if named else "Choose a smaller base model or add a larger device."
    details = [
        {"changes": option.changes, "message": option.words, "remedy": option.sentence()} for option in alternatives
    ]
    return Refusal("does_not_fit", answer.sentence, f"{remedy} Set `allow_unfit` to submit anyway.", details=details)


def shape_of(base_model: BaseModel) -> Shape:
    """Return the base model's shape.

    Raises:
        Refusal: `base_model_without_facts`.
    """
    try:
        return Shape(ModelFacts.model_validate(base_model.facts))
    except ValidationError as error:
        raise Refusal(
            "base_model_without_facts",
            f"The hub has no facts about the layers of the base model {base_model.name!r}.",
            "Import it again to read them from its config.",
            field="base_model",
            kind="conflict",
        ) from error


def measured(versions: Sequence[DatasetVersion], base_model: BaseModel, weights: Sequence[float] = ()) -> Rows:
    """Measure the rows of several datasets with the base model's template; each sample stands for all its rows.

    Raises:
        Refusal: the template cannot be used, or no row can be rendered.
        ArtifactError: a file is missing in the store.
    """
    samples = [[row for row in measured_rows(version, base_model) if not row.problem] for version in versions]
    drawn = drawn_rows(versions, weights)
    shares = [count / max(1, len(sample)) for count, sample in zip(drawn, samples, strict=True)]
    rows = [row for sample, share in zip(samples, shares, strict=True) for row in sample * round(share / min(shares))]
    if not rows:
        raise Refusal("unrenderable_row", "The chat template cannot render any row.", "Check the dataset's preview.")
    tokens = sum(row.tokens for row in rows)
    return Rows(
        count=sum(drawn),
        lengths=[row.tokens for row in rows],
        supervised_share=sum(row.supervised_within(row.tokens) for row in rows) / tokens,
    )


def guessed(versions: Sequence[DatasetVersion], weights: Sequence[float] = ()) -> Rows:
    """Guess the rows from the file sizes alone."""
    drawn = drawn_rows(versions, weights)
    size_bytes = sum(
        count * version.size_bytes / version.row_count for count, version in zip(drawn, versions, strict=True)
    )
    return Rows.guessed(sum(drawn), round(size_bytes))


def drawn_rows(versions: Sequence[DatasetVersion], weights: Sequence[float]) -> list[int]:
    """Return how many rows of each dataset an epoch draws: all of the least-weighted one, as in `engine.dataset`."""
    weights = weights or [1.0] * len(versions)
    return [round(version.row_count * weight / min(weights)) for version, weight in zip(versions, weights, strict=True)]


def planned_device(device: Device) -> PlannedDevice:
    return device_of(device.kind, device.name, device.memory_bytes)


def finished_runs() -> list[FinishedRun]:
    """Return the newest finished trainings, measured and estimated again from their spec and real token counts."""
    runs = (learnt_from(attempt) for attempt in Attempt.objects.to_learn_from(LEARNT_ATTEMPTS))
    return [run for run in runs if run is not None]


def learnt_from(attempt: Attempt) -> FinishedRun | None:
    """Convert one attempt of `with_measures()`; None: its model or its device is not known well enough."""
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
    """The formulas' estimate for a run with known token counts."""

    device: PlannedDevice
    memory: MemoryEstimate
    seconds_per_step: float | None

    @property
    def measurable_bytes(self) -> float:
        return self.memory.measurable_bytes(self.device.kind)


def estimate_of(attempt: Attempt) -> Estimate | None:
    """Estimate a finished or running attempt from its real token counts; None: model or device is unknown."""
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
    if dtype is not None:  # What `auto` resolved to.
        spec = changed(spec, {"runtime.dtype": dtype})
    device = planned_device(row)
    return Estimate(device, estimate_memory(spec, shape, device, load), seconds_per_step(spec, shape, device, load))


@dataclass(frozen=True)
class EstimateCheck:
    """A run's estimate compared with its measurements so far."""

    estimated_bytes: float
    measured_bytes: int
    estimated_seconds: float | None
    measured_seconds: float

    @property
    def memory_error(self) -> float:
        """The estimate's error relative to the measurement."""
        return self.estimated_bytes / self.measured_bytes - 1


def compare_with_estimate(job: Job) -> EstimateCheck | None:
    """Compare the newest attempt with a few steps to its estimate; None: none exists, or model or device is unknown."""
    attempt = Attempt.objects.filter(job=job).with_measures().order_by("-number").first()
    estimate = None if attempt is None else estimate_of(attempt)
    if attempt is None or estimate is None:
        return None
    return EstimateCheck(estimate.measurable_bytes, attempt.peak_bytes, estimate.seconds_per_step, attempt.mean_seconds)
