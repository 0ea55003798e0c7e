"""What can be deleted: a kind knows its rows, their files, and what needs them. The verbs are in `actions.py`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from django.db.models import QuerySet

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right
from finetune_hub.artifacts.store import ArtifactStore
from finetune_hub.catalog.models import Deletable, Deletion
from finetune_hub.jobs.models import ENDED_JOB_STATES, Job

Row = TypeVar("Row", bound=Deletable)


@dataclass(frozen=True, slots=True)
class Target:
    """What somebody wants to delete, of a team's that they see."""

    kind: str
    """The name of a `DeletableKind`."""
    pk: str
    number: int | None = None
    """One version of it; None: all of it."""


@dataclass(frozen=True, slots=True)
class Related:
    """Something that needs, or came from, what is to be deleted."""

    kind: str
    """job, adapter, dataset or alias."""
    id: str
    name: str
    how: str
    """`is running and reads it`."""


class DeletableKind(Generic[Row]):
    """One kind of thing that can be deleted. Its rows go together, and come back together."""

    name: ClassVar[str]
    """What the database and the API call it; `NAME_in_use` refuses it while jobs need it."""
    right: ClassVar[Right]
    model: ClassVar[type[Any]]

    def rows(self, target: Target) -> QuerySet[Row]:
        """All rows of the target, also those that were deleted, in the order in which they are locked."""
        raise NotImplementedError

    def team(self, target: Target) -> Team:
        raise NotImplementedError

    def subject(self, target: Target, rows: Sequence[Row]) -> str:
        """The rows in words: `adapter tickets v3`."""
        raise NotImplementedError

    def files(self, rows: Sequence[Row], store: ArtifactStore) -> dict[str, int]:
        """The keys of their files in the artifact store, each with its bytes."""
        raise NotImplementedError

    def held_by(self, rows: Sequence[Row]) -> list[Related]:
        """What has not ended and needs them: while there is any, nothing is deleted."""
        raise NotImplementedError

    def broken(self, rows: Sequence[Row]) -> list[Related]:
        """What would stop working without them."""
        return []

    def kept(self, rows: Sequence[Row]) -> list[Related]:
        """What came from them, and stays what it is."""
        return []

    def lock(self, target: Target) -> list[Row]:
        """The rows, locked until the transaction ends: see `jobs.inputs`."""
        return list(self.rows(target).select_for_update(of=("self",)))

    def rows_of(self, deletion: Deletion) -> QuerySet[Row]:
        found: QuerySet[Row] = self.model.objects.filter(deletion=deletion)
        return found

    def hide(self, rows: Sequence[Row], deletion: Deletion) -> None:
        self.model.objects.filter(pk__in=[row.pk for row in rows]).update(deletion=deletion)

    def show(self, deletion: Deletion) -> None:
        """Let the rows be there again.

        Raises:
            Refusal: something else has taken their place.
        """
        self.rows_of(deletion).update(deletion=None)

    def hold_back(self, deletion: Deletion) -> None:
        """Lock out what may put the same files again; before the deletion is locked."""

    def forget(self, rows: Sequence[Row]) -> None:
        """What the rows say of their files goes, after the files."""


def jobs_in_need(jobs: QuerySet[Job], how: str) -> list[Related]:
    """Those that have not ended, by name."""
    unfinished = Job.objects.filter(pk__in=jobs.values("pk")).exclude(state__in=ENDED_JOB_STATES).for_list()
    return [Related("job", job.pk, job.subject, f"is {job.shown_state} and {how}") for job in unfinished]


def prefixed(prefix: str, entries: Iterable[Any]) -> dict[str, int]:
    """Keys and bytes of the entries of a manifest below the prefix."""
    return {f"{prefix}/{entry.path}": entry.size_bytes for entry in entries}
