"""Protect a job's inputs from deletion, which locks the same rows and then looks for jobs."""

from __future__ import annotations

from collections.abc import Iterable

from finetune_hub.catalog.models import BaseModel, DatasetVersion, Deletable
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.refusal import Refusal


def hold_inputs(
    *, base_model: BaseModel | None, versions: Iterable[DatasetVersion], adapter_version: AdapterVersion | None
) -> None:
    """Lock a job's inputs until the transaction ends, always in the same order, and check that they exist.

    Raises:
        Refusal: `deleted_meanwhile`.
    """
    found: list[Deletable] = []
    if base_model is not None:
        found += BaseModel.objects.select_for_update(no_key=True).filter(pk=base_model.pk)
    rows = DatasetVersion.objects.filter(pk__in=[version.pk for version in versions]).order_by("pk")
    found += rows.for_list().select_related("dataset").select_for_update(no_key=True, of=("self",))
    if adapter_version is not None:
        rows_of_adapter = AdapterVersion.objects.filter(pk=adapter_version.pk).select_related("adapter")
        found += rows_of_adapter.select_for_update(no_key=True, of=("self",))
    deleted = next((row for row in found if row.deletion_id is not None), None)
    if deleted is not None:
        raise Refusal(
            "deleted_meanwhile",
            f"{deleted} was deleted.",
            "Restore it from the team's trash, or choose another one.",
            kind="conflict",
        )
