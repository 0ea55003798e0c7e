"""What can be deleted. A kind knows its rows, their files, and what needs them; `actions.py` has the actions."""

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
    """What a user wants to delete."""

    kind: str
    """The name of a `DeletableKind`."""
    pk: str
    number: int | None = None
    """The number of a version; None for the whole."""


@dataclass(frozen=True, slots=True)
class Related:
    """Something that needs the target, or came from it."""

    kind: str
    """job, adapter, dataset or alias."""
    id: str
    name: str
    how: str
    """`is running and reads it`."""


class DeletableKind(Generic[Row]):
    """A kind of thing that can be deleted. The rows of a target are deleted and restored together."""

    name: ClassVar[str]
    """Its name in the database and the API. While jobs need it, the error code is `NAME_in_use`."""
    right: ClassVar[Right]
    model: ClassVar[type[Any]]

    def rows(self, target: Target) -> QuerySet[Row]:
        """Return all rows of the target, including deleted ones, in locking order."""
        raise NotImplementedError

    def team(self, target: Target) -> Team:
        raise NotImplementedError

    def subject(self, target: Target, rows: Sequence[Row]) -> str:
        """Return the rows in words, such as `adapter tickets v3`."""
        raise NotImplementedError

    def files(self, rows: Sequence[Row], store: ArtifactStore) -> dict[str, int]:
        """Return the keys of the rows' files in the artifact store, with their sizes in bytes."""
        raise NotImplementedError

    def held_by(self, rows: Sequence[Row]) -> list[Related]:
        """Return the unfinished jobs that need the rows and block the deletion."""
        raise NotImplementedError

    def broken(self, rows: Sequence[Row]) -> list[Related]:
        """Return what stops working without the rows."""
        return []

    def kept(self, rows: Sequence[Row]) -> list[Related]:
        """Return what came from the rows and is kept."""
        return []

    def lock(self, target: Target) -> list[Row]:
        """Lock the rows until the transaction ends, as `jobs.held_inputs` does."""
        return list(self.rows(target).select_for_update(of=("self",)))

    def rows_of(self, deletion: Deletion) -> QuerySet[Row]:
        found: QuerySet[Row] = self.model.objects.filter(deletion=deletion)
        return found

    def hide(self, rows: Sequence[Row], deletion: Deletion) -> None:
        self.model.objects.filter(pk__in=[row.pk for row in rows]).update(deletion=deletion)

    def show(self, deletion: Deletion) -> None:
        """Restore the rows.

        Raises:
            Refusal: another row has taken their place.
        """
        self.rows_of(deletion).update(deletion=None)

    def hold_back(self, deletion: Deletion) -> None:
        """Lock out uploads that may store the same files again. Called before the deletion is locked."""

    def forget(self, rows: Sequence[Row]) -> None:
        """Delete what the rows store about their files, after the files."""


def jobs_in_need(jobs: QuerySet[Job], how: str) -> list[Related]:
    """Return the unfinished jobs."""
    unfinished = Job.objects.filter(pk__in=jobs.values("pk")).exclude(state__in=ENDED_JOB_STATES).for_list()
    return [Related("job", job.pk, job.subject, f"is {job.shown_state} and {how}") for job in unfinished]


def prefixed(prefix: str, entries: Iterable[Any]) -> dict[str, int]:
    """Return the keys and sizes of a manifest's entries below the prefix."""
    return {f"{prefix}/{entry.path}": entry.size_bytes for entry in entries}
