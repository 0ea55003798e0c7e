"""Delete a job that has ended: its checkpoints and logs. Row, curve and history stay for lineage and usage."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import QuerySet

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right
from finetune_hub.artifacts.store import ArtifactStore
from finetune_hub.jobs.models import Attempt, Checkpoint, Job
from finetune_hub.operations.deletion.deletable import DeletableKind, Related, Target, jobs_in_need
from finetune_hub.registry.models import AdapterVersion


class Jobs(DeletableKind[Job]):
    name, right, model = "job", Right.DELETE_JOB, Job

    def rows(self, target: Target) -> QuerySet[Job]:
        """Return the job and its children."""
        return Job.objects.filter(pk=target.pk).union(Job.objects.filter(parent=target.pk)).order_by("pk")

    def lock(self, target: Target) -> list[Job]:
        keys = [job.pk for job in self.rows(target)]
        return list(Job.objects.filter(pk__in=keys).order_by("pk").select_for_update(of=("self",)))

    def team(self, target: Target) -> Team:
        return Team.objects.get(jobs=target.pk)

    def subject(self, target: Target, rows: Sequence[Job]) -> str:
        main = Job.objects.for_list().get(pk=target.pk)
        parts = len(rows) - 1
        return f"job {target.pk} ({main.subject})" + (f" and {parts} of its jobs" if parts else "")

    def files(self, rows: Sequence[Job], store: ArtifactStore) -> dict[str, int]:
        return {
            f"{checkpoint.artifact_prefix}/{entry['path']}": int(entry["size_bytes"])
            for checkpoint in Checkpoint.objects.filter(job__in=rows)
            for entry in checkpoint.manifest
        }

    def held_by(self, rows: Sequence[Job]) -> list[Related]:
        keys = [row.pk for row in rows]
        return [
            *jobs_in_need(Job.objects.filter(pk__in=keys), "must end first"),
            *jobs_in_need(Job.objects.filter(after__in=keys), "starts after it"),
            *jobs_in_need(Job.objects.filter(children__in=keys).exclude(pk__in=keys), "waits for it"),
            *jobs_in_need(Job.objects.filter(parent__in=keys).exclude(pk__in=keys), "is a part of it"),
        ]

    def kept(self, rows: Sequence[Job]) -> list[Related]:
        published = AdapterVersion.objects.alive().filter(publication__job__in=rows).select_related("adapter")
        return [Related("adapter", row.adapter_id, str(row), "was published by it") for row in published]

    def forget(self, rows: Sequence[Job]) -> None:
        Checkpoint.objects.filter(job__in=rows).delete()
        Attempt.objects.filter(job__in=rows).exclude(log_tail="").update(log_tail="")
