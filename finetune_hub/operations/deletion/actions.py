"""Delete, restore and purge: the same for all kinds. See docs/adr/0015."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.accounts.actions import record
from finetune_hub.accounts.models import Team, User, Verb
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.catalog.models import Deletion
from finetune_hub.operations.deletion.adapters import Adapters
from finetune_hub.operations.deletion.base_models import BaseModels
from finetune_hub.operations.deletion.datasets import Datasets
from finetune_hub.operations.deletion.deletable import DeletableKind, Related, Target
from finetune_hub.operations.deletion.jobs import Jobs
from finetune_hub.operations.deletion.owners import keys_of_others
from finetune_hub.spec.duration import written_duration
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words

DELETABLE: dict[str, DeletableKind[Any]] = {kind.name: kind for kind in (Adapters(), Datasets(), BaseModels(), Jobs())}
NAMED = 5
PASS_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Outlook:
    """What deleting something would do."""

    kind: str
    subject: str
    size_bytes: int
    file_count: int
    held_by: list[Related]
    """Unfinished jobs that need it. They block the deletion."""
    stops_working: list[Related]
    """What stops working without it. The user must accept this."""
    stays: list[Related]
    """What came from it and is kept."""
    grace_seconds: int

    @property
    def grace(self) -> str:
        """How long it can be restored, such as `7 days`."""
        return grace_in_words()

    @property
    def sentence(self) -> str:
        """The grace and what is freed after it, for the user who decides."""
        files = f"{self.file_count} file{'' if self.file_count == 1 else 's'}"
        freed = f"After that, {files} ({size_in_words(self.size_bytes)}) are deleted." if self.file_count else ""
        return f"It can be restored for {self.grace}. {freed or 'It has no files of its own.'}"


def grace_in_words() -> str:
    """Return how long deleted things can be restored, such as `7 days`."""
    seconds = round(settings.KEEP_DELETED.total_seconds())
    days, rest = divmod(seconds, 86_400)
    return written_duration(seconds) if rest or not days else f"{days} day{'' if days == 1 else 's'}"


def team_of_target(target: Target) -> Team | None:
    """Return the team of the target, even if it is deleted; None if it does not exist."""
    kind = DELETABLE[target.kind]
    return kind.team(target) if kind.rows(target).exists() else None


def look_ahead(target: Target) -> Outlook:
    """Return what deleting the target would do, without changing anything.

    Raises:
        Refusal: `already_deleted`.
    """
    kind = DELETABLE[target.kind]
    rows = [row for row in kind.rows(target) if row.deletion_id is None]
    if not rows:
        raise Refusal(
            "already_deleted",
            "It is already deleted.",
            "If its time is not over, restore it from the team's trash.",
            kind="gone",
        )
    return _outlook(kind, target, rows)


def delete_thing(target: Target, user: User, *, accept_dependents: bool = False) -> Deletion:
    """Hide the target everywhere until it is restored or purged. Repeating it returns the same deletion.

    Args:
        accept_dependents: Delete it although other things stop working.

    Raises:
        Refusal: `forbidden`; `adapter_in_use`, `dataset_in_use`, `base_model_in_use`, `job_in_use`; `has_dependents`.
    """
    kind = DELETABLE[target.kind]
    team = kind.team(target)
    require_right(kind.right, user, team)
    with transaction.atomic():
        locked = kind.lock(target)
        rows = [row for row in locked if row.deletion_id is None]
        if not rows:
            return Deletion.objects.filter(pk__in=[row.deletion_id for row in locked]).latest("deleted_at")
        outlook = _outlook(kind, target, rows)
        if outlook.held_by:
            raise Refusal(
                f"{kind.name}_in_use",
                _in_the_way(outlook, outlook.held_by),
                "Wait until they have ended, or cancel them first.",
                details=_details(outlook.held_by),
                kind="conflict",
            )
        if outlook.stops_working and not accept_dependents:
            raise Refusal(
                "has_dependents",
                _in_the_way(outlook, outlook.stops_working),
                "Delete them first, or accept this: `accept_dependents=true` in the API, `--yes` in a terminal.",
                details=_details(outlook.stops_working),
                kind="conflict",
            )
        deletion = Deletion.objects.create(
            team=team,
            kind=kind.name,
            subject=outlook.subject[:300],
            size_bytes=outlook.size_bytes,
            deleted_by=user,
            purge_after=Now() + settings.KEEP_DELETED,
        )
        kind.hide(rows, deletion)
        record(Verb.DELETED, _audited(deletion), team=team, actor=user)
    deletion.refresh_from_db()
    return deletion


def restore_deletion(deletion: Deletion, user: User) -> Deletion:
    """Restore everything that was deleted together. Repeating it has no effect.

    Raises:
        Refusal: `forbidden`, `restore_expired`, `base_model_exists`.
    """
    require_right(Right.RESTORE_DELETED, user, deletion.team)
    with transaction.atomic():
        deletion = Deletion.objects.select_for_update(of=("self",)).select_related("team").get(pk=deletion.pk)
        if deletion.restored_at:
            return deletion
        if not Deletion.objects.restorable().filter(pk=deletion.pk).exists():
            raise Refusal(
                "restore_expired",
                f"{_capital(deletion.subject)} could be restored until {deletion.purge_after:%d %B %Y, %H:%M} UTC.",
                "Upload, import or train it again.",
                kind="gone",
            )
        DELETABLE[deletion.kind].show(deletion)
        Deletion.objects.filter(pk=deletion.pk).update(restored_at=Now(), restored_by=user)
        record(Verb.RESTORED, _audited(deletion), team=deletion.team, actor=user)
    deletion.refresh_from_db()
    return deletion


def purge_pass(store: ArtifactStore) -> int:
    """Purge what was not restored in time, in one bounded round. Returns the number of finished deletions."""
    for key in Deletion.objects.due().order_by("purge_after").values_list("pk", flat=True)[:PASS_LIMIT]:
        begin_purge(key)
    half = list(Deletion.objects.half_purged().order_by("purged_at").values_list("pk", flat=True)[:PASS_LIMIT])
    for key in half:
        finish_purge(store, key)
    return len(half)


@transaction.atomic
def begin_purge(deletion_id: str) -> None:
    """Commit that the deletion can no longer be restored, before any of its files is deleted."""
    deletion = Deletion.objects.due().select_for_update().filter(pk=deletion_id).first()
    if deletion is None:  # It was restored, or another process was first.
        return
    Deletion.objects.filter(pk=deletion.pk).update(purged_at=Now())
    record(Verb.PURGED, _audited(deletion), team=deletion.team, actor=deletion.deleted_by)


@transaction.atomic
def finish_purge(store: ArtifactStore, deletion_id: str) -> None:
    """Delete the files without another owner, then record that. It can be repeated after a crash at any point."""
    found = Deletion.objects.get(pk=deletion_id)
    kind = DELETABLE[found.kind]
    kind.hold_back(found)
    deletion = Deletion.objects.half_purged().select_for_update().filter(pk=deletion_id).first()
    if deletion is None:
        return
    rows = list(kind.rows_of(deletion))
    keys = kind.files(rows, store)
    for key in sorted(keys.keys() - keys_of_others(keys, rows, trash_counts=True)):
        store.delete(key)
    kind.forget(rows)
    Deletion.objects.filter(pk=deletion.pk).update(files_deleted_at=Now())


def _outlook(kind: DeletableKind[Any], target: Target, rows: list[Any]) -> Outlook:
    files = kind.files(rows, shared_store(settings.ARTIFACT_URL))
    freed = files.keys() - keys_of_others(files, rows, trash_counts=False)
    return Outlook(
        kind=kind.name,
        subject=kind.subject(target, rows),
        size_bytes=sum(files[key] for key in freed),
        file_count=len(freed),
        held_by=kind.held_by(rows),
        stops_working=kind.broken(rows),
        stays=kind.kept(rows),
        grace_seconds=round(settings.KEEP_DELETED.total_seconds()),
    )


def _in_the_way(outlook: Outlook, related: list[Related]) -> str:
    named = "; ".join(f"{_called(each)} {each.how}" for each in related[:NAMED])
    more = f"; and {len(related) - NAMED} more" if len(related) > NAMED else ""
    return f"{_capital(outlook.subject)} is needed: {named}{more}."


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _details(related: list[Related]) -> list[dict[str, Any]]:
    return [{"message": f"{_called(each)} {each.how}.", "loc": [each.kind, each.id]} for each in related]


def _called(related: Related) -> str:
    return f"{related.id} ({related.name})" if related.kind == "job" else related.name


def _audited(deletion: Deletion) -> str:
    return f"{deletion.subject[:270]}, {size_in_words(deletion.size_bytes)}"
