"""Delete an adapter, or one version of it. Its name is kept for later versions, and no number is used twice."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import QuerySet

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right
from finetune_hub.artifacts.store import ArtifactStore
from finetune_hub.jobs.models import Job
from finetune_hub.operations.deletion.deletable import DeletableKind, Related, Target, jobs_in_need, prefixed
from finetune_hub.registry.models import Adapter, AdapterVersion


class Adapters(DeletableKind[AdapterVersion]):
    name, right, model = "adapter", Right.DELETE_ADAPTER, AdapterVersion

    def rows(self, target: Target) -> QuerySet[AdapterVersion]:
        versions = AdapterVersion.objects.filter(adapter_id=target.pk).select_related("adapter").order_by("pk")
        return versions if target.number is None else versions.filter(number=target.number)

    def lock(self, target: Target) -> list[AdapterVersion]:
        if target.number is None:  # Publishing jobs take the same lock.
            Adapter.objects.select_for_update().get(pk=target.pk)
        return super().lock(target)

    def team(self, target: Target) -> Team:
        return Team.objects.get(adapters=target.pk)

    def subject(self, target: Target, rows: Sequence[AdapterVersion]) -> str:
        if target.number is not None:
            return f"adapter {rows[0]}"
        return f"adapter {rows[0].adapter.name} ({len(rows)} version{'' if len(rows) == 1 else 's'})"

    def files(self, rows: Sequence[AdapterVersion], store: ArtifactStore) -> dict[str, int]:
        found: dict[str, int] = {}
        for version in rows:
            found |= prefixed(version.artifact_prefix, version.manifest())
        return found

    def held_by(self, rows: Sequence[AdapterVersion]) -> list[Related]:
        return jobs_in_need(Job.objects.filter(adapter_version__in=rows), "evaluates it")

    def kept(self, rows: Sequence[AdapterVersion]) -> list[Related]:
        below = AdapterVersion.objects.alive().filter(lineage__parent__in=rows).exclude(pk__in=[row.pk for row in rows])
        measured = Job.objects.shown().ended().filter(adapter_version__in=rows).for_list()
        return [
            *(Related("adapter", row.adapter_id, str(row), "was made from it") for row in below.distinct()),
            *(Related("job", job.pk, job.subject, "is an evaluation of it") for job in measured),
        ]
