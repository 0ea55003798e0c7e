"""The verbs of the catalogue: add a version to a dataset. Importing a base model is a job: see `jobs.kinds`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from django.conf import settings
from django.db import transaction
from django.db.models import Max
from pydantic import TypeAdapter, ValidationError

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.models import Dataset, DatasetVersion
from finetune_hub.data.report import QUARANTINE_FILE, ROWS_FILE, DatasetReport, look_at
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import Name

OnError = Literal["refuse", "quarantine"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where rows come from that nobody uploaded: split off another version, or fetched."""

    parent: DatasetVersion | None = None
    words: str = ""  # How they were split off.
    source: str = ""  # Where they were fetched from, pinned.
    license: str = ""


UPLOADED = Origin()

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


def add_dataset_version(
    team: Team,
    user: User,
    *,
    name: str,
    file: Path,
    filename: str,
    mapping: Mapping[str, str] | None = None,
    on_error: OnError = "refuse",
) -> DatasetVersion:
    """Make what the user uploaded the newest version of the named dataset; see `keep_dataset_version`.

    Raises:
        Refusal: `forbidden`, and those of `keep_dataset_version`.
    """
    require_right(Right.ADD_DATASET, user, team)
    return keep_dataset_version(team, user, name=name, file=file, filename=filename, mapping=mapping, on_error=on_error)


def keep_dataset_version(
    team: Team,
    user: User,
    *,
    name: str,
    file: Path,
    filename: str,
    mapping: Mapping[str, str] | None = None,
    on_error: OnError = "refuse",
    origin: Origin = UPLOADED,
) -> DatasetVersion:
    """Read the file, keep its rows, and make them the newest version of the named dataset, which is created when new.

    The same rows again are the version that they already are, whatever file they came in; a deleted one comes back.
    Whether the user may was asked by whoever calls: a worker does when what they asked for has arrived.

    Args:
        mapping: Column → part, where the columns belong to no known format.
        on_error: `quarantine` goes on with the good rows and sets the others aside.
        origin: Where the file comes from.

    Raises:
        Refusal: `invalid_name`, `invalid_mapping`, `unknown_format`, or `invalid_dataset` with an entry in `details`
            for each defect.
    """
    check_name(name)
    workshop = settings.HOME / "tmp"
    workshop.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=workshop) as temporary:
        folder = Path(temporary)
        report = look_at(file, file_name=filename, mapping=mapping, keep_in=folder)
        if not report.may_go_on or (report.error_count and on_error == "refuse"):
            raise report.refusal()
        with transaction.atomic():
            dataset, _ = Dataset.objects.get_or_create(team=team, name=name, defaults={"created_by": user})
            Dataset.objects.select_for_update().get(pk=dataset.pk)
            known = dataset.versions.filter(sha256=report.sha256).first()
            if known is None:
                return _create_version(dataset, user, report, file, folder, origin)
            if known.deleted_at:
                _put_files(known, file, folder)
                known.revive(report.first_rows)
            return known


def _create_version(
    dataset: Dataset, user: User, report: DatasetReport, original: Path, folder: Path, origin: Origin
) -> DatasetVersion:
    assert report.recognised is not None
    assert report.kind is not None
    newest = dataset.versions.aggregate(number=Max("number"))["number"] or 0
    version = DatasetVersion(
        dataset=dataset,
        number=newest + 1,
        sha256=report.sha256,
        size_bytes=report.size_bytes,
        row_count=report.row_count,
        first_rows=report.first_rows,
        artifact_key=f"datasets/{dataset.pk}/{report.sha256}.jsonl",
        kind=report.kind,
        format=report.recognised.format,
        recognised=report.recognised.sentence,
        file_name=report.file_name[:255],
        original_sha256=sha256_of(original),
        original_size_bytes=original.stat().st_size,
        rejected_count=report.rejected_count,
        quarantine_size_bytes=(folder / QUARANTINE_FILE).stat().st_size,
        row_offsets=report.row_offsets,
        parent=origin.parent,
        origin=origin.words,
        source=origin.source,
        license=origin.license[:100],
        created_by=user,
    )
    _put_files(version, original, folder)
    version.save(force_insert=True)
    return version


def _put_files(version: DatasetVersion, original: Path, folder: Path) -> None:
    """Store the rows; the upload and what was set aside too, where they are those that the version names."""
    store = shared_store(settings.ARTIFACT_URL)
    store.put(version.artifact_key, folder / ROWS_FILE)
    if version.original_key != version.artifact_key and sha256_of(original) == version.original_sha256:
        store.put(version.original_key, original)
    aside = folder / QUARANTINE_FILE
    if version.quarantine_key and aside.stat().st_size == version.quarantine_size_bytes:
        store.put(version.quarantine_key, aside)
