"""The verbs of the catalogue: add a version to a dataset. Importing a base model is a job: see `jobs.actions`."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import Max
from pydantic import TypeAdapter, ValidationError

from finetune_hub.accounts.models import Team, User
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.models import Dataset, DatasetVersion
from finetune_hub.data.chat_rows import check_chat_file
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import Name

_name = TypeAdapter(Name)


def check_name(name: str, *, field: str = "name") -> str:
    """The name itself, when it may name a dataset, a base model or an adapter.

    Raises:
        Refusal: `invalid_name`.
    """
    try:
        return _name.validate_python(name)
    except ValidationError as error:
        raise Refusal(
            "invalid_name",
            f"{name!r} cannot be used as a name.",
            "Use lower-case letters and digits with single '-', '.' or '_' between them, such as 'support-tickets'.",
            field=field,
        ) from error


def add_dataset_version(team: Team, user: User, *, name: str, file: Path, filename: str) -> DatasetVersion:
    """Check the file, store it, and make it the newest version of the named dataset, which is created when new.

    The same content again returns the version that it already is.

    Raises:
        Refusal: `invalid_name`, or `invalid_dataset` with an entry in `details` for each defect.
    """
    check_name(name)
    report = check_chat_file(file, file_name=filename)
    if not report.is_sound:
        raise report.refusal()
    with transaction.atomic():
        dataset, _ = Dataset.objects.get_or_create(team=team, name=name, defaults={"created_by": user})
        Dataset.objects.select_for_update().get(pk=dataset.pk)
        known = dataset.versions.filter(sha256=report.sha256).first()
        if known:
            return known
        key = f"datasets/{dataset.pk}/{report.sha256}.jsonl"
        shared_store(settings.ARTIFACT_URL).put(key, file)
        newest = dataset.versions.aggregate(number=Max("number"))["number"] or 0
        return DatasetVersion.objects.create(
            dataset=dataset,
            number=newest + 1,
            sha256=report.sha256,
            size_bytes=report.size_bytes,
            row_count=report.row_count,
            first_rows=report.first_rows,
            artifact_key=key,
            created_by=user,
        )
