"""Check the artifact store: every file has an owner, and every owner has its files.

    orphan      a file without an owner, stored KEEP_ORPHANS ago, that no running attempt may still publish: deleted
    missing     a file that a row owns but the store does not have: only reported, as nothing here can restore it

Rows and store are read one after the other while the hub runs, so suspects are checked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from finetune_hub.artifacts.store import ArtifactStore
from finetune_hub.catalog.models import BaseModel, BaseModelState, Dataset, DatasetVersion
from finetune_hub.jobs.models import Attempt
from finetune_hub.operations.deletion.owners import Owned, all_owned, keys_of_others

ROOMS = ("base-models", "datasets", "jobs")
PASS_LIMIT = 200
NAMED = 5


@dataclass(slots=True)
class StoreReport:
    """What the check has found."""

    file_count: int = 0
    size_bytes: int = 0
    orphans: dict[str, int] = field(default_factory=dict)
    """Keys without an owner, with their sizes in bytes."""
    missing: list[Owned] = field(default_factory=list)
    deleted_count: int = 0

    @property
    def is_sound(self) -> bool:
        return not self.orphans and not self.missing

    @property
    def problem(self) -> str:
        """What Health reports; empty if nothing is missing."""
        if not self.missing:
            return ""
        named = ", ".join(f"{each.key} of {each.owner}" for each in self.missing[:NAMED])
        more = f" and {len(self.missing) - NAMED} more" if len(self.missing) > NAMED else ""
        return (
            f"Files are missing in the artifact store: {named}{more}. Restore them from a backup, or delete what they "
            "belong to; `manage.py check_store` lists them all."
        )


def check_store(store: ArtifactStore, *, delete: bool = False) -> StoreReport:
    """Compare the store with all files that rows own, in both directions.

    Args:
        delete: Delete up to PASS_LIMIT orphans; the next round continues.

    Raises:
        ArtifactError: the store cannot be read.
    """
    report = StoreReport()
    owned = {each.key: each for each in all_owned()}
    named = set(owned)
    for room in ROOMS:
        for key, size_bytes in store.sizes(room):
            report.file_count += 1
            report.size_bytes += size_bytes
            owned.pop(key, None)
    report.missing = list(still_missing(store, owned.values()))
    orphans = dict(find_orphans(store, named))
    if delete:
        chosen = list(islice(orphans, PASS_LIMIT))
        for key in chosen:
            if not key.startswith("datasets/"):
                store.delete(key)
            elif not delete_unless_named(store, key):
                continue
            orphans.pop(key)
            report.deleted_count += 1
    report.orphans = orphans
    return report


def still_missing(store: ArtifactStore, suspects: Iterable[Owned]) -> Iterator[Owned]:
    """Yield the suspects whose file is still missing and still owned."""
    found = list(suspects)
    named = keys_of_others([each.key for each in found], trash_counts=True)
    stored: dict[str, set[str]] = {}
    for each in found:
        folder = each.key.rpartition("/")[0]
        if folder not in stored:
            stored[folder] = set(store.keys(folder))
        if each.key in named and each.key not in stored[folder]:
            yield each


def find_orphans(store: ArtifactStore, named: set[str]) -> Iterator[tuple[str, int]]:
    """Yield files without an owner that nothing may still claim. `named` are the owned keys of a moment ago."""
    for room in ROOMS:
        old = store.sizes(room, older_than=settings.KEEP_ORPHANS)
        suspects = {key: size_bytes for key, size_bytes in old if key not in named}
        kept = keys_of_others(suspects, trash_counts=True) | keys_in_use(suspects)
        yield from ((key, size_bytes) for key, size_bytes in suspects.items() if key not in kept)


def keys_in_use(keys: Iterable[str]) -> set[str]:
    """Return the keys that an attempt may still publish or an import may still read."""
    by_owner: dict[str, set[str]] = {}
    for key in keys:
        room, owner, *_ = key.split("/")
        by_owner.setdefault(f"{room}/{owner}", set()).add(key)
    of_jobs = [owner.removeprefix("jobs/") for owner in by_owner if owner.startswith("jobs/")]
    lately = Q(finished_at=None) | Q(finished_at__gt=Now() - settings.KEEP_ORPHANS)
    busy = Attempt.objects.filter(lately, job__in=of_jobs).only("job_id", "number")
    prefixes = {f"{attempt.artifact_prefix}/" for attempt in busy}
    of_models = [owner.removeprefix("base-models/") for owner in by_owner if owner.startswith("base-models/")]
    waiting = BaseModel.objects.filter(pk__in=of_models, deletion__purged_at=None).exclude(state=BaseModelState.READY)
    prefixes |= {f"{model.upload_folder}/" for model in waiting}
    return {key for found in by_owner.values() for key in found if key.startswith(tuple(prefixes))}


def delete_unless_named(store: ArtifactStore, key: str) -> bool:
    """Check again under the dataset's lock, which uploads hold, because one may have restored a deleted version."""
    dataset_id = key.split("/")[1]
    with transaction.atomic():
        Dataset.objects.select_for_update().filter(pk=dataset_id).first()
        if any(
            key in version.keys for version in named_by(DatasetVersion.objects.with_files().filter(dataset=dataset_id))
        ):
            return False
        store.delete(key)
    return True


def named_by(versions: QuerySet[DatasetVersion]) -> QuerySet[DatasetVersion]:
    """Return the versions with only the fields that their file keys need."""
    return versions.only("artifact_key", "sha256", "original_sha256", "rejected_count")
