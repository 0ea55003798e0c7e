"""Delete a base model. Its name is free immediately, and its adapters can then only be downloaded."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right
from finetune_hub.artifacts.store import ArtifactStore
from finetune_hub.catalog.models import BaseModel, BaseModelAlias, BaseModelState, Deletion
from finetune_hub.jobs.models import Job
from finetune_hub.operations.deletion.deletable import DeletableKind, Related, Target, jobs_in_need, prefixed
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.refusal import Refusal


class BaseModels(DeletableKind[BaseModel]):
    name, right, model = "base_model", Right.DELETE_BASE_MODEL, BaseModel

    def rows(self, target: Target) -> QuerySet[BaseModel]:
        return BaseModel.objects.filter(pk=target.pk)

    def team(self, target: Target) -> Team:
        return Team.objects.get(base_models=target.pk)

    def subject(self, target: Target, rows: Sequence[BaseModel]) -> str:
        return f"base model {rows[0].name}"

    def files(self, rows: Sequence[BaseModel], store: ArtifactStore) -> dict[str, int]:
        found: dict[str, int] = {}
        for model in rows:
            found |= prefixed(model.artifact_prefix, model.manifest())
            if model.state == BaseModelState.FAILED:  # Its upload is kept for the next attempt.
                found |= dict(store.sizes(model.upload_folder))
        return found

    def held_by(self, rows: Sequence[BaseModel]) -> list[Related]:
        return jobs_in_need(Job.objects.filter(base_model__in=rows), "needs it")

    def broken(self, rows: Sequence[BaseModel]) -> list[Related]:
        over = AdapterVersion.objects.alive().filter(adapter__base_model__in=rows).select_related("adapter")
        aliases = BaseModelAlias.objects.filter(base_model__in=rows)
        how = "needs it, and could only be downloaded"
        return [
            *(Related("adapter", row.adapter_id, str(row), how) for row in over.order_by("pk")),
            *(Related("alias", row.alias, row.alias, "is an alias of it") for row in aliases),
        ]

    def show(self, deletion: Deletion) -> None:
        try:
            with transaction.atomic():
                super().show(deletion)
        except IntegrityError as taken:
            name = self.rows_of(deletion).get().name
            raise Refusal(
                "base_model_exists",
                f"The team now has another base model named {name!r}.",
                "Delete the other one first, then restore this one.",
                kind="conflict",
            ) from taken
