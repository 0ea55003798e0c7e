"""A training: an adapter trained on datasets for a base model, published once it was reloaded and compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from django.db import transaction

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.catalog.choices import find_base_model, find_dataset_version
from finetune_hub.catalog.local_files import dataset_file, tokenizer_folder
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.data.chat_template import NothingSupervised
from finetune_hub.data.intake import read_rows
from finetune_hub.data.template_process import count_in_time, with_template_long
from finetune_hub.fleet.models import Worker
from finetune_hub.jobs.kinds.kind import Kind
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.planning import compare_with_estimate, memory_after_shrinking, memory_needed, plan_training
from finetune_hub.jobs.submission import check_priority, create_job, lock_predecessor, same_again
from finetune_hub.scheduling.shrinking import smaller
from finetune_hub.spec.compatibility import Compatibility, compatibility_of
from finetune_hub.spec.measures import MEASURES
from finetune_hub.spec.methods.registry import method_type
from finetune_hub.spec.objectives.objective import Objective
from finetune_hub.spec.objectives.registry import objective_type
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.row_kinds import RowKind
from finetune_hub.spec.training import TrainingSpec

RAW_KINDS = frozenset({RowKind.TEXT, RowKind.COMPLETION})  # These do not pass through a chat template.
LOOKED_AT_ROWS = 200
STARTUP_SECONDS = 20.0  # To start its processes and, at the end, verify and store the adapter.


class Training(Kind):
    name, label, noun = "train", "Train", "a training"
    goes_on_from_checkpoints = True
    result_template = "jobs/kinds/training_result.html"
    page_template = "jobs/kinds/training.html"

    def reads(self, job: Job) -> bool:
        method, objective = job.spec.get("method", {}), job.spec.get("objective", {})
        return method_type(method) is not None and objective_type(objective) is not None

    def subject(self, job: Job) -> str:
        return str(job.spec.get("adapter_name") or job.over.name)

    def check(self, job: Job) -> str:
        return look_at_rows(job)

    def expected_seconds(self, job: Job) -> float | None:
        """Return the planner's estimate."""
        try:
            devices = plan_training(job.team, job.training_spec()).devices
        except Refusal:
            return None
        seconds = next((device.total_seconds for device in devices if device.verdict != "does_not_fit"), None)
        return None if seconds is None else STARTUP_SECONDS + seconds

    def memory_bytes_needed(self, job: Job) -> int | None:
        return memory_after_shrinking(job) if job.adjustments else job.memory_bytes_needed

    def max_duration_seconds(self, job: Job) -> float | None:
        return job.training_spec().runtime.max_duration_seconds

    def shrink(self, job: Job) -> dict[str, Any] | None:
        spec = job.training_spec()
        return smaller(spec) if spec.runtime.on_out_of_memory == "shrink" else None

    def spec_to_submit(self, job: Job) -> dict[str, Any]:
        return job.training_spec().model_dump(mode="json", exclude_none=True)

    def compatibility(self, job: Job) -> list[Compatibility]:
        return compatibility_of(job.training_spec().method, job.over.model_type)

    def page_context(self, job: Job) -> dict[str, Any]:
        objective = job.training_spec().objective
        measures = [MEASURES[name] for name in objective.measures]
        return {
            "comparison": compare_with_estimate(job),
            "objective": objective,
            "measures": measures,
            "measures_json": json.dumps([asdict(measure) for measure in measures]),
        }


def submit_training(
    team: Team,
    user: User,
    spec: TrainingSpec,
    *,
    priority: int = 0,
    after: str | None = None,
    copy_of: Job | None = None,
    idempotency_key: str | None = None,
    allow_unfit: bool = False,
) -> Job:
    """Put a training job in the queue, or return the job that the same idempotency key created before.

    Args:
        after: the id of a job of the team; this one starts once that one has succeeded, and fails if it fails.
        copy_of: the job that the spec comes from, for the history.
        allow_unfit: accept it even if the planner says that no device has room for it.

    Raises:
        Refusal: `forbidden`, `unknown_base_model`, `base_model_not_ready`, `unknown_dataset`, `path_not_allowed`,
            `duplicate_dataset`, `not_preference_pairs`, `no_chat_template`, `does_not_fit`, `too_many_gpus`,
            `priority_not_allowed`, `unknown_job`, `wrong_job_state`, `idempotency_key_reused`.
    """
    require_right(Right.SUBMIT_JOB, user, team)
    known = Job.objects.filter(team=team, idempotency_key=idempotency_key).first() if idempotency_key else None
    if known is not None:  # First, because a change since then may make the same spec invalid now.
        return same_again(known, _as_submitted(team, spec, known))
    check_gpus(spec.runtime.gpus)
    check_priority(team, user, priority)
    base_model = find_base_model(team, spec.base_model)
    choices = [(find_dataset_version(team, choice), choice.weight) for choice in spec.datasets]
    if len({version.pk for version, _ in choices}) < len(choices):
        raise Refusal(
            "duplicate_dataset", "A dataset is listed twice.", "List it once and raise its `weight`.", field="datasets"
        )
    require_chat_template(base_model, [version for version, _ in choices])
    spec = spec.model_copy(update={"base_model": base_model.name})  # The spec may use an alias.
    require_fitting_rows(spec.objective, [version for version, _ in choices])
    if spec.adapter_name is None:
        name = f"{choices[0][0].dataset.name}-{base_model.name}"[:64].rstrip("-._")
        spec = spec.model_copy(update={"adapter_name": name})
    needed = memory_needed(team, spec, allow_unfit=allow_unfit)  # Reads rows, so do it before locking anything.
    with transaction.atomic():
        return create_job(
            Training,
            team=team,
            created_by=user,
            memory_bytes_needed=needed,
            base_model=base_model,
            spec=spec.model_dump(mode="json", exclude_none=True),
            choices=choices,
            idempotency_key=idempotency_key,
            said="Submitted." if copy_of is None else f"Submitted, as a copy of {copy_of.pk}.",
            priority=priority,
            after=None if after is None else lock_predecessor(team, after),
        )


def _as_submitted(team: Team, spec: TrainingSpec, known: Job) -> dict[str, Any]:
    """Return the spec as it was stored at submission: without an alias, and with an adapter name."""
    filled = {"adapter_name": spec.adapter_name or known.spec["adapter_name"]}
    if spec.base_model != known.spec["base_model"]:
        filled["base_model"] = find_base_model(team, spec.base_model).name
    return spec.model_copy(update=filled).model_dump(mode="json", exclude_none=True)


def require_chat_template(base_model: BaseModel, versions: Sequence[DatasetVersion]) -> None:
    """Check that the base model has a chat template if there are conversations.

    Raises:
        Refusal: `no_chat_template`.
    """
    chats = [version for version in versions if version.kind not in RAW_KINDS]
    if base_model.lacks_chat_template and chats:
        raise Refusal(
            "no_chat_template",
            f"The base model {base_model.name!r} has no chat template, and {chats[0]} contains conversations.",
            "Set one on the Base models page or with `finetune-hub base-models set-template "
            f"{base_model.name} chatml`, or use the instruct variant. Raw text needs no template.",
            field="base_model",
        )


def require_fitting_rows(objective: Objective, versions: Sequence[DatasetVersion]) -> None:
    """Check that the objective can learn from the rows.

    Raises:
        Refusal: `wrong_row_kind`, or `not_preference_pairs` if it needs pairs.
    """
    unfit = next((version for version in versions if version.kind not in objective.row_kinds), None)
    if unfit is None:
        return
    name = objective.type.upper()
    message = f"{name} learns from {objective.learns_from}, and the rows of {unfit} are of kind {unfit.kind}."
    if objective.row_kinds == {RowKind.PREFERENCE}:
        remedy = "Choose a dataset of preference pairs, or `objective: {type: sft}`."
        raise Refusal("not_preference_pairs", message, remedy, field="objective.type")
    remedy = f"Choose a dataset of kind {' or '.join(sorted(objective.row_kinds))}, or `objective: {{type: sft}}`."
    raise Refusal("wrong_row_kind", message, remedy, field="objective.type")


def check_gpus(wanted: int) -> None:
    """Check that some worker, available or not, has enough devices, because a job's devices are all on one worker.

    Raises:
        Refusal: `too_many_gpus`.
    """
    most = Worker.objects.most_devices()
    if wanted > 1 and most is not None and wanted > most:
        raise Refusal(
            "too_many_gpus",
            f"The job needs {wanted} devices on one worker, and the largest worker has {most}.",
            f"Set `runtime.gpus` to at most {most}, or add a larger machine.",
            field="runtime.gpus",
        )


def look_at_rows(job: Job) -> str:
    """Encode the first rows of every dataset and return a sentence on what was found.

    Raises:
        InvalidDataset, InvalidChatTemplate: the rows cannot be trained on with this base model.
        ArtifactError: a file is missing.
    """
    max_seq_len = job.training_spec().training.max_seq_len
    rows = [
        row
        for job_dataset in job.job_datasets.select_related("dataset_version")
        for _, row in islice(read_rows(dataset_file(job_dataset.dataset_version)), LOOKED_AT_ROWS)
    ]
    folder, revision = tokenizer_folder(job.over), job.over.revision
    truncated, supervised = with_template_long(folder, revision, count_in_time, rows, max_seq_len)
    if supervised == 0:
        raise NothingSupervised(
            f"The first {len(rows)} rows have no supervised tokens: all answers are beyond max_seq_len={max_seq_len}.",
            "Raise `max_seq_len` or shorten the prompts.",
        )
    cut = f"; {truncated} of them are truncated at {max_seq_len} tokens" if truncated else ""
    return f"The first {len(rows)} rows have {supervised / len(rows):.0f} supervised tokens each{cut}."
