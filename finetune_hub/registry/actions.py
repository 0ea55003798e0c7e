"""Actions on the registry."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import transaction
from django.db.models import Max

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.registry.models import Adapter, AdapterFile, AdapterVersion, Lineage
from finetune_hub.spec.files import FileEntry


@transaction.atomic
def add_version(
    *,
    team: Team,
    name: str,
    base_model: BaseModel,
    dataset_versions: Iterable[DatasetVersion],
    files: list[FileEntry],
    **facts: Any,
) -> AdapterVersion:
    """Create the next version of the named adapter, with its files and lineage. The caller holds the fence (P3)."""
    adapter, _ = Adapter.objects.get_or_create(team=team, name=name, base_model=base_model)
    Adapter.objects.select_for_update().get(pk=adapter.pk)  # Two jobs may publish to one adapter at once.
    newest = adapter.versions.aggregate(number=Max("number"))["number"] or 0
    version = AdapterVersion.objects.create(
        adapter=adapter,
        number=newest + 1,
        size_bytes=sum(file.size_bytes for file in files),
        base_model_revision=base_model.revision,
        chat_template_sha256=base_model.facts.get("chat_template_sha256") or "",
        **facts,
    )
    AdapterFile.objects.bulk_create(AdapterFile(version=version, **file.model_dump()) for file in files)
    Lineage.objects.create(version=version, base_model=base_model)
    Lineage.objects.bulk_create(
        Lineage(version=version, dataset_version=dataset_version) for dataset_version in dataset_versions
    )
    return version
