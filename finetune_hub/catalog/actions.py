"""Actions of the catalog: add a dataset version. For imports of base models, which are jobs, see `jobs.kinds`."""

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
from finetune_hub.spec.ids import new_id
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import Name

OnError = Literal["refuse", "quarantine"]


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of rows that were not uploaded: a split or an import."""

    parent: DatasetVersion | None = None
    words: str = ""  # How they were split.
    source: str = ""  # Where they were imported from, pinned to a revision.
    license: str = ""


UPLOADED = Origin()

_name = TypeAdapter(Name)


def check_name(name: str, *, field: str = "name") -> str:
    """Check a name of a dataset, base model or adapter, and return it.

    Raises:
        Refusal: `invalid_name`.
    """
    try:
        return _name.validate_python(name)
    except ValidationError as error:
        raise Refusal(
            "invalid_name",
            f"{name!r} is not a valid name.",
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
    """Add the uploaded file as the newest version of the named dataset; see `keep_dataset_version`.

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
    """Read the file and store its rows as the newest version of the dataset, which is created if missing.

    If a version with the same rows exists, it is returned, whatever file they came in; a deleted version is restored.
    The caller checks the user's right: workers also call this when an import has finished.

    Args:
        mapping: Column → part, if the columns match no known format.
        on_error: `quarantine` imports the valid rows and sets the others aside.
        origin: Where the rows come from.

    Raises:
        Refusal: `invalid_name`, `invalid_mapping`, `unknown_format`, or `invalid_dataset` with one entry in `details`
            per defect.
    """
    check_name(name)
    workshop = settings.HOME / "tmp"
    workshop.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=workshop) as temporary:
        folder = Path(temporary)
        report = look_at(file, file_name=filename, mapping=mapping, keep_in=folder)
        if not report.may_go_on or (report.error_count and on_error == "refuse"):
            raise report.refusal()
        kept = None
        while kept is None:
            dataset = Dataset.objects.filter(team=team, name=name).first()
            dataset = dataset or Dataset(team=team, name=name, created_by=user)
            kept = _keep_rows(dataset, user, report, file, folder, origin)
        return kept


def _keep_rows(
    dataset: Dataset, user: User, report: DatasetReport, original: Path, folder: Path, origin: Origin
) -> DatasetVersion | None:
    """Return the version with these rows, stored if it is new. None: another upload was first, so look again.

    The files are hashed and stored before anything is locked, since that may take minutes. A new version's files have
    keys of their own, so parallel uploads do not overwrite each other's.
    """
    known = DatasetVersion.objects.filter(dataset_id=dataset.pk, sha256=report.sha256).first()
    if known and not known.deleted_at:
        return known
    version = known or _new_version(dataset, user, report, original, folder, origin)
    try:
        _put_files(version, original, folder)
        with transaction.atomic():
            defaults = {"pk": dataset.pk, "created_by": user}
            dataset, _ = Dataset.objects.get_or_create(team=dataset.team, name=dataset.name, defaults=defaults)
            Dataset.objects.select_for_update().get(pk=dataset.pk)
            newest = dataset.versions.filter(sha256=report.sha256).first()
            is_as_seen = dataset.pk == version.dataset_id and newest == known
            if is_as_seen and known is None:
                version.dataset = dataset
                version.number = (dataset.versions.aggregate(number=Max("number"))["number"] or 0) + 1
                version.save(force_insert=True)
            elif is_as_seen and newest and newest.deleted_at:
                version.revive(user, report.first_rows)
    except BaseException:
        if known is None:  # Nothing else uses its keys.
            _delete_files(version)
        raise
    if not is_as_seen:
        if known is None:
            _delete_files(version)
        return None
    if known and not _has_files(version):  # They were deleted after we stored them, and before it was restored.
        _put_files(version, original, folder)
    return version


def _new_version(
    dataset: Dataset, user: User, report: DatasetReport, original: Path, folder: Path, origin: Origin
) -> DatasetVersion:
    """Return the version, unsaved and without its number."""
    assert report.recognised is not None
    assert report.kind is not None
    return DatasetVersion(
        dataset_id=dataset.pk,
        sha256=report.sha256,
        size_bytes=report.size_bytes,
        row_count=report.row_count,
        first_rows=report.first_rows,
        artifact_key=f"datasets/{dataset.pk}/{new_id(report.sha256)}.jsonl",
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


def _put_files(version: DatasetVersion, original: Path, folder: Path) -> None:
    """Store the rows, and the upload and rejected rows if they match the version."""
    store = shared_store(settings.ARTIFACT_URL)
    store.put(version.artifact_key, folder / ROWS_FILE)
    if version.original_key != version.artifact_key and sha256_of(original) == version.original_sha256:
        store.put(version.original_key, original)
    aside = folder / QUARANTINE_FILE
    if version.quarantine_key and aside.stat().st_size == version.quarantine_size_bytes:
        store.put(version.quarantine_key, aside)


def _has_files(version: DatasetVersion) -> bool:
    store = shared_store(settings.ARTIFACT_URL)
    return {version.artifact_key, version.quarantine_key} - {""} <= set(store.keys(f"datasets/{version.dataset_id}"))


def _delete_files(version: DatasetVersion) -> None:
    for key in version.keys:
        shared_store(settings.ARTIFACT_URL).delete(key)
