"""The part of the client for datasets and base models."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

from finetune_hub.cli.answers import (
    AddedVersion,
    Alias,
    BaseModel,
    BaseModelDetail,
    Dataset,
    DatasetVersionDetail,
    FoundRow,
    FoundRows,
    ImportedBaseModel,
    JobDetail,
    KnownTemplate,
    KnownTemplates,
    RowPreview,
    SplitParts,
    TokenStatistics,
)
from finetune_hub.cli.connection import UPLOAD_TIMEOUT_SECONDS, HubConnection, HubError, Page
from finetune_hub.data.comparison import Comparison

WHOLE_BYTES = 32 << 20  # Larger files are sent in parts.


class DataClient(HubConnection):
    """Datasets and base models of a hub. Every method raises `HubError`."""

    def push_dataset(
        self, path: Path, name: str, *, mapping: dict[str, str] | None = None, quarantine: bool = False
    ) -> AddedVersion:
        """Upload a file as a dataset's new version. Returns it, or the existing version with the same content.

        Args:
            mapping: column → part, if the columns match no known format.
            quarantine: import the valid rows and set the others aside.
        A file of more than 32 MiB is sent in parts. Call this again to resume an interrupted push.
        """
        data = {"name": name, "on_error": "quarantine" if quarantine else "refuse"}
        if mapping:
            data["mapping"] = json.dumps(mapping)
        if path.stat().st_size > WHOLE_BYTES:
            data["upload"] = self._upload_in_parts(path)
            parts = {key: (None, value) for key, value in data.items()}
            return self._ask(AddedVersion, "POST", "datasets", files=parts, timeout=UPLOAD_TIMEOUT_SECONDS)
        with path.open("rb") as file:
            return self._ask(
                AddedVersion,
                "POST",
                "datasets",
                data=data,
                files={"file": (path.name, file)},
                timeout=UPLOAD_TIMEOUT_SECONDS,
            )

    def import_dataset(
        self, name: str, source: str, *, mapping: dict[str, str] | None = None, quarantine: bool = False
    ) -> JobDetail:
        """Start a job that imports a dataset version from `hf:owner/name@revision:split` or `https://…`."""
        on_error = "quarantine" if quarantine else "refuse"
        body = {"name": name, "source": source, "mapping": mapping, "on_error": on_error}
        return self._ask(JobDetail, "POST", "datasets/import", json=body)

    def datasets(self) -> list[Dataset]:
        return self._list(Page[Dataset], "datasets")

    def dataset_path(self, reference: str) -> str:
        """Return the API path of a dataset by `NAME`, or of a version by `NAME:VERSION`."""
        name, _, number = reference.partition(":")
        found = self._list(Page[Dataset], "datasets", name=name)
        if not found or (number and not number.isdigit()):
            raise HubError(
                "unknown_dataset", f"There is no dataset {reference!r}.", "See `finetune-hub datasets list`."
            )
        return f"datasets/{found[0].id}" + (f"/versions/{number}" if number else "")

    def dataset_version(self, reference: str) -> DatasetVersionDetail:
        """Return a version by `NAME:VERSION`, or the newest by `NAME`."""
        name, _, number = reference.partition(":")
        found = self._list(Page[Dataset], "datasets", name=name)
        if not found or (number and not number.isdigit()):
            raise HubError(
                "unknown_dataset", f"There is no dataset {reference!r}.", "See `finetune-hub datasets list`."
            )
        path = f"datasets/{found[0].id}/versions/{number or found[0].newest_number}"
        return self._get(DatasetVersionDetail, path)

    def preview(self, version: DatasetVersionDetail, base_model: str, row: int, max_seq_len: int) -> RowPreview:
        """Return a row token by token, with a base model's chat template and tokenizer."""
        path = f"{path_of(version)}/preview"
        return self._get(RowPreview, path, base_model=base_model, row=row, max_seq_len=max_seq_len)

    def compare(self, version: DatasetVersionDetail, other: str) -> Comparison:
        """Compare with another version, `NAME` or `NAME:VERSION`: changed rows and prompts in both."""
        return self._get(Comparison, f"{path_of(version)}/comparison", **{"with": other})

    def split(self, version: DatasetVersionDetail, *, fraction: float, seed: int) -> SplitParts:
        """Hold rows out. Returns the new versions `train` and `held_out`."""
        body = {"fraction": fraction, "seed": seed}
        return self._ask(SplitParts, "POST", f"{path_of(version)}/split", json=body)

    def find_rows(self, version: DatasetVersionDetail, words: str = "", *, limit: int = 20) -> list[FoundRow]:
        """Return the first rows that contain the words, with their numbers."""
        rows: list[FoundRow] = []
        after: int | None = 0
        while after is not None and len(rows) < limit:
            path = f"{path_of(version)}/rows"
            page = self._get(FoundRows, path, q=words, after=after)
            rows += page.rows
            after = page.next
        return rows[:limit]

    def delete_dataset_version(self, version: DatasetVersionDetail) -> DatasetVersionDetail:
        """Delete the version's rows and files; its hash and lineage stay."""
        return self._ask(DatasetVersionDetail, "DELETE", path_of(version))

    def token_statistics(self, version: DatasetVersionDetail, base_model: str, max_seq_len: int) -> TokenStatistics:
        """Measure the rows of a dataset version for a base model, and what is truncated."""
        path = f"{path_of(version)}/tokens"
        return self._get(TokenStatistics, path, base_model=base_model, max_seq_len=max_seq_len)

    def import_base_model(self, name: str, source: str | None = None) -> ImportedBaseModel:
        """Start an import. Wait for the job in `job_id`."""
        return self._ask(ImportedBaseModel, "POST", "base-models", json={"name": name, "source": source})

    def push_base_model(self, path: Path, name: str) -> ImportedBaseModel:
        """Upload a GGUF file in parts and start its import. Call this again to resume an interrupted push."""
        return self._ask(
            ImportedBaseModel, "POST", "base-models", json={"name": name, "upload": self._upload_in_parts(path)}
        )

    def base_models(self, name: str | None = None) -> list[BaseModel]:
        return self._list(Page[BaseModel], "base-models", name=name)

    def base_model(self, base_model_id: str) -> BaseModelDetail:
        """Return the base model with its facts and files."""
        return self._get(BaseModelDetail, f"base-models/{base_model_id}")

    def chat_templates(self, base_model: str) -> list[KnownTemplate]:
        """Return the known chat templates, those that fit the model's tokenizer first."""
        path = f"base-models/{self.base_model_id(base_model)}/chat-template"
        return self._get(KnownTemplates, path).data

    def set_chat_template(
        self, base_model: str, *, template: str | None = None, source: str | None = None
    ) -> BaseModelDetail:
        """Set a known template or Jinja source for a base model that has none."""
        body = {"template": template, "source": source}
        path = f"base-models/{self.base_model_id(base_model)}/chat-template"
        return self._ask(BaseModelDetail, "POST", path, json=body)

    def aliases(self) -> list[Alias]:
        """Return the aliases of base models."""
        return self._list(Page[Alias], "base-model-aliases")

    def set_alias(self, alias: str, base_model: str) -> Alias:
        """Set an alias for the base model."""
        return self._ask(Alias, "POST", "base-model-aliases", json={"alias": alias, "base_model": base_model})

    def remove_alias(self, alias: str) -> Alias:
        return self._ask(Alias, "DELETE", f"base-model-aliases/{quote(alias)}")

    def base_model_id(self, name: str) -> str:
        """Return the id of the team's base model of this name."""
        found = self.base_models(name)
        if not found:
            raise HubError(
                "unknown_base_model", f"There is no base model {name!r}.", "See `finetune-hub base-models list`."
            )
        return found[0].id


def path_of(version: DatasetVersionDetail) -> str:
    """Return the version's path in the API."""
    return f"datasets/{version.id}/versions/{version.number}"
