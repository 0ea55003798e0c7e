"""The results of training: adapters, their immutable versions with every file's hash, and their lineage."""

from __future__ import annotations

from functools import partial

from django.db import models
from django.db.models.functions import Now

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.querysets import TeamOwnedQuerySet
from finetune_hub.catalog.models import BaseModel, DatasetVersion, Deletable, StoredFile
from finetune_hub.spec.compatibility import Compatibility, compatibility_of
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.ids import new_id
from finetune_hub.spec.training import TrainingSpec


class AdapterQuerySet(TeamOwnedQuerySet["Adapter"]):
    def shown(self) -> AdapterQuerySet:
        """Return the adapters with an undeleted version."""
        return self.filter(models.Exists(AdapterVersion.objects.alive().filter(adapter=models.OuterRef("pk"))))

    def for_list(self) -> AdapterQuerySet:
        """Return adapters with their newest version's facts in the same query, most recent first."""
        newest = AdapterVersion.objects.alive().filter(adapter=models.OuterRef("pk")).order_by("-number")
        return (
            self.select_related("base_model")
            .annotate(
                newest_number=models.Subquery(newest.values("number")[:1]),
                newest_created_at=models.Subquery(newest.values("created_at")[:1]),
                newest_method=models.Subquery(newest.values("method")[:1]),
                newest_size_bytes=models.Subquery(newest.values("size_bytes")[:1]),
            )
            .filter(newest_number__isnull=False)
            .order_by("-newest_created_at")
        )


class Adapter(models.Model):
    """A name under which versions for one base model are published."""

    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "ad"))
    team = models.ForeignKey(Team, models.PROTECT, related_name="adapters")
    name = models.CharField(max_length=64)
    base_model = models.ForeignKey(BaseModel, models.PROTECT, related_name="adapters")
    created_at = models.DateTimeField(db_default=Now())

    objects = AdapterQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["team", "name", "base_model"], name="adapter_name_unique_over_base_model")
        ]

    def __str__(self) -> str:
        return self.name


class AdapterVersionQuerySet(models.QuerySet["AdapterVersion"]):
    def alive(self) -> AdapterVersionQuerySet:
        """Return the versions that are not deleted."""
        return self.filter(deletion=None)


class AdapterVersion(Deletable):
    """One published adapter: immutable, reloaded and compared before it was published (P5)."""

    adapter = models.ForeignKey(Adapter, models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    method = models.CharField(max_length=30)
    step = models.PositiveIntegerField()
    artifact_prefix = models.CharField(max_length=500, unique=True)
    size_bytes = models.BigIntegerField()
    base_model_revision = models.CharField(max_length=64)
    chat_template_sha256 = models.CharField(max_length=64)
    training_spec = models.JSONField()
    summary = models.JSONField(help_text="What the trainer reported at the end: steps, tokens, losses.")
    verification = models.JSONField(help_text="How the reloaded adapter compared with the trainer's logits.")
    model_card = models.TextField(default="", help_text="Markdown; the same text as the file README.md.")
    created_at = models.DateTimeField(db_default=Now())

    objects = AdapterVersionQuerySet.as_manager()

    class Meta:
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["adapter", "number"], name="adapter_version_number_unique")]

    def __str__(self) -> str:
        return f"{self.adapter.name} v{self.number}"

    def compatibility(self) -> list[Compatibility]:
        """Which programs can serve it."""
        method = TrainingSpec.model_validate(self.training_spec).method
        return compatibility_of(method, self.adapter.base_model.model_type)

    def manifest(self) -> list[FileEntry]:
        return [file.entry for file in self.files.all()]


class AdapterFile(StoredFile):
    version = models.ForeignKey(AdapterVersion, models.PROTECT, related_name="files")

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint(fields=["version", "path"], name="adapter_file_path_unique")]


class Lineage(models.Model):
    """An edge from an adapter version to one of its origins."""

    version = models.ForeignKey(AdapterVersion, models.PROTECT, related_name="lineage")
    base_model = models.ForeignKey(BaseModel, models.PROTECT, null=True, related_name="descendants")
    dataset_version = models.ForeignKey(DatasetVersion, models.PROTECT, null=True, related_name="descendants")
    parent = models.ForeignKey(AdapterVersion, models.PROTECT, null=True, related_name="descendants")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(base_model__isnull=False, dataset_version=None, parent=None)
                | models.Q(base_model=None, dataset_version__isnull=False, parent=None)
                | models.Q(base_model=None, dataset_version=None, parent__isnull=False),
                name="lineage_has_one_origin",
            ),
            models.CheckConstraint(condition=~models.Q(parent=models.F("version")), name="lineage_not_to_itself"),
        ]

    def __str__(self) -> str:
        return f"{self.version} from {self.base_model or self.dataset_version or self.parent}"
