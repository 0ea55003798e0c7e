"""The pages' forms. Actions and pydantic models decide which values are valid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import pydantic
from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.aliases import MAX_LENGTH as MAX_ALIAS_LENGTH
from finetune_hub.catalog.dataset_sources import MAX_LENGTH as MAX_SOURCE_LENGTH
from finetune_hub.catalog.models import BaseModel
from finetune_hub.data.formats.mapped import PARTS
from finetune_hub.jobs.team_use import TeamUse
from finetune_hub.spec.document_defects import defects_of
from finetune_hub.spec.recipes.translate import MAX_CHARACTERS, Translation, translate
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words

PLAIN_TEXT = {"autocapitalize": "none", "spellcheck": "false"}  # For names and paths.

NO_FILE = {"required": "Choose a file."}
COLUMN_FIELD = "part:"  # Followed by the column's name.


def key_of_form(form_token: str, content: str) -> str:
    """Return an idempotency key: the same form sent twice with the same content creates one job."""
    return f"form-{form_token[:64]}-{hashlib.sha256(content.encode()).hexdigest()}"


class RefusableForm(forms.Form):
    """A form that can show an action's refusal."""

    # Refusal field → form field, where the names differ.
    refusal_fields: dict[str, str] = {}

    def add_refusal(self, refusal: Refusal) -> None:
        """Show a refusal next to its field, or above the form if the form has no such field.

        Raises:
            Refusal: the user has no right to do this at all, which is shown on its own page.
        """
        if refusal.kind == "forbidden" and refusal.field is None:
            raise refusal
        field = self.refusal_fields.get(refusal.field or "", refusal.field)
        self.add_error(field if field in self.fields else None, str(refusal))

    def add_defects(self, error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> None:
        """Show a document's defects next to their fields, in the same words as the API and the CLI.

        A field that already has an error keeps only that one.
        """
        for defect in defects_of(error, model):
            loc = list(map(str, defect["loc"]))
            names = [self.refusal_fields.get(loc[0], ""), ".".join(loc[:2]), loc[0]] if loc else []
            field = next((name for name in names if name in self.fields), None)
            sentence = f"{defect['message']}. {defect['remedy']}"
            if field is None:
                self.add_error(None, ": ".join([*names[1:2], sentence]))
            elif not self.has_error(field):
                self.add_error(field, sentence[:1].upper() + sentence[1:])


class TeamForm(RefusableForm):
    """A form whose result belongs to a team. It has a team field if the user can choose between several."""

    def __init__(self, *args: Any, teams: Sequence[Team], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teams = list(teams)
        if len(self.teams) > 1:
            self.fields["team"] = forms.ChoiceField(
                choices=[(team.slug, team.name) for team in self.teams], help_text="Its members will see it."
            )

    @property
    def team_field(self) -> forms.BoundField | None:
        """The team field, if the form has one."""
        return self["team"] if "team" in self.fields else None

    @property
    def team(self) -> Team:
        """The chosen team, or the only one."""
        slug = self.cleaned_data.get("team", self.teams[0].slug)
        return next(team for team in self.teams if team.slug == slug)


class FileForm(TeamForm):
    """A form with a file. A large file was uploaded in parts before; `upload` is its id."""

    refusal_fields = {"upload": "file"}

    upload = forms.CharField(required=False, max_length=40, widget=forms.HiddenInput())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["file"].required = not self.data.get("upload")


class MappingForm(TeamForm):
    """A form for rows, which asks for a column mapping if the columns match no known format."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.columns: list[str] = [
            name.removeprefix(COLUMN_FIELD) for name in self.data if name.startswith(COLUMN_FIELD)
        ]

    @property
    def mapping(self) -> dict[str, str]:
        """Column → part, for the columns that have a part."""
        parts = {column: self.data.get(COLUMN_FIELD + column, "") for column in self.columns}
        return {column: part for column, part in parts.items() if part}

    def column_choices(self) -> list[tuple[str, str, list[tuple[str, str, bool]]]]:
        """Return field name, column and possible parts (name, text, is chosen) for each column to map."""
        return [
            (
                COLUMN_FIELD + column,
                column,
                [(part, f"{part}: {what}", self.mapping.get(column) == part) for part, what in PARTS.items()],
            )
            for column in self.columns
        ]

    def add_refusal(self, refusal: Refusal) -> None:
        super().add_refusal(refusal)
        if refusal.code == "unknown_format":
            self.columns = [detail["column"] for detail in refusal.details]


class DatasetUploadForm(FileForm, MappingForm):
    name = forms.CharField(
        max_length=64,
        help_text="Lower-case letters and digits, with single '-', '.' or '_' between them. "
        "An existing name gets a new version.",
        widget=forms.TextInput(attrs={"placeholder": "support-tickets", **PLAIN_TEXT}),
    )
    file = forms.FileField(
        error_messages=NO_FILE,
        allow_empty_file=True,  # The check of the rows says more about an empty file.
        help_text="JSONL, JSON, CSV, TSV, Parquet or text, optionally gzip or zstd. The row format is detected.",
        # htmx keeps the chosen file if the form comes back with errors.
        widget=forms.FileInput(attrs={"hx-preserve": "true"}),
    )
    quarantine = forms.BooleanField(
        required=False,
        label="Import the valid rows only",
        help_text="Rows with errors are set aside, so that you can download and fix them.",
    )

    def clean_file(self) -> UploadedFile[Any] | None:
        upload: UploadedFile[Any] | None = self.cleaned_data["file"]
        if upload and (upload.size or 0) > settings.DATASET_UPLOAD_MAX_BYTES:
            raise forms.ValidationError(
                f"{upload.name} is larger than {size_in_words(settings.DATASET_UPLOAD_MAX_BYTES)}. "
                "Split it into several datasets and name them all in the job."
            )
        return upload


class DatasetImportForm(MappingForm):
    name = forms.CharField(
        max_length=64,
        help_text="An existing name gets a new version.",
        widget=forms.TextInput(attrs={"placeholder": "support-tickets", **PLAIN_TEXT}),
    )
    source = forms.CharField(
        max_length=MAX_SOURCE_LENGTH,
        help_text="`hf:owner/name@revision`, optionally with `:split` or `:path/of/a/file`; or an `https://` URL.",
        widget=forms.TextInput(attrs={"placeholder": "hf:owner/name:train", **PLAIN_TEXT}),
    )
    quarantine = forms.BooleanField(required=False, label="Import the valid rows only")


class UploadBeginForm(TeamForm):
    """A large file to upload in parts."""

    file_name = forms.CharField(max_length=255)
    size_bytes = forms.IntegerField(min_value=1, max_value=2**62)
    fingerprint = forms.CharField(max_length=255)


class QuotaForm(forms.Form):
    """How much of the fleet a team may use."""

    max_devices = forms.IntegerField(
        required=False, min_value=0, max_value=100_000, label="Devices at the same time", help_text="Empty: no limit."
    )
    max_hours = forms.FloatField(
        required=False, min_value=0, max_value=1e9, label="Device hours per month", help_text="Empty: no limit."
    )
    weight = forms.FloatField(
        min_value=0.001, max_value=1000, help_text="Its share of a busy fleet, relative to other teams."
    )

    @classmethod
    def of(cls, use: TeamUse) -> QuotaForm:
        """Return the form filled with the current quota."""
        quota = use.quota
        initial = {"max_devices": quota.max_devices, "max_hours": quota.max_hours, "weight": quota.weight}
        return cls(initial=initial, prefix=use.team.slug)


class InvitationForm(RefusableForm):
    """A worker to invite."""

    name = forms.CharField(
        max_length=64,
        help_text="The worker's name in the hub: a-z, 0-9 and -.",
        widget=forms.TextInput(attrs={"placeholder": "gpu-7", **PLAIN_TEXT}),
    )


class PartForm(forms.Form):
    """The position of an upload's part."""

    offset = forms.IntegerField(min_value=0, max_value=2**62)


class PreviewForm(forms.Form):
    """The row to preview, the base model, and how many tokens to keep."""

    base_model = forms.CharField(max_length=40)
    max_seq_len = forms.IntegerField(min_value=1, max_value=1_048_576)
    row = forms.IntegerField(min_value=1)


class SplitForm(forms.Form):
    """How many rows to hold out, and the seed."""

    percent = forms.FloatField(min_value=1, max_value=90)
    seed = forms.IntegerField(min_value=0, max_value=2**31 - 1)


class RecipeForm(forms.Form):
    """A pasted recipe of any supported program."""

    text = forms.CharField(
        label="YAML",
        max_length=MAX_CHARACTERS,
        strip=False,
        help_text="The whole file. For each key, you will see if it was taken over, changed, or is not supported.",
        widget=forms.Textarea(attrs={"rows": 16, **PLAIN_TEXT}),
    )

    translation: Translation

    def clean_text(self) -> str:
        text: str = self.cleaned_data["text"]
        try:
            self.translation = translate(text)
        except Refusal as refusal:
            raise forms.ValidationError(str(refusal)) from refusal
        return text


class GgufForm(FileForm):
    name = forms.CharField(
        max_length=64,
        help_text="The model's name in the hub.",
        widget=forms.TextInput(attrs={"placeholder": "my-model", **PLAIN_TEXT}),
    )
    file = forms.FileField(
        error_messages=NO_FILE,
        label="GGUF file",
        help_text="Of any size. If the connection breaks, the upload resumes where it stopped.",
        widget=forms.FileInput(attrs={"accept": ".gguf", "hx-preserve": "true"}),
    )


class AliasForm(TeamForm):
    alias = forms.CharField(
        max_length=MAX_ALIAS_LENGTH,
        help_text="The name that clients send.",
        widget=forms.TextInput(attrs={"placeholder": "gpt-4o-mini-2024-07-18", **PLAIN_TEXT}),
    )
    base_model = forms.ChoiceField(label="Stands for")

    def __init__(self, *args: Any, base_models: Iterable[BaseModel], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = sorted({model.name for model in base_models})
        field = self.fields["base_model"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(name, name) for name in names]


class BaseModelForm(TeamForm):
    name = forms.CharField(
        max_length=64,
        help_text="The model's name in the hub.",
        widget=forms.TextInput(attrs={"placeholder": "my-model", **PLAIN_TEXT}),
    )
    source = forms.CharField(
        max_length=500,
        help_text="`hf:owner/name@revision` on Hugging Face, with `:FILE.gguf` for a GGUF file there; "
        "or `folder:NAME`, a folder or GGUF file in the hub's `models` folder.",
        widget=forms.TextInput(attrs={"placeholder": "hf:Qwen/Qwen2.5-0.5B-Instruct", **PLAIN_TEXT}),
    )
    license = forms.CharField(
        max_length=100,
        required=False,
        label="Licence",
        help_text="Needed only if the source does not name one.",
        widget=forms.TextInput(attrs={"placeholder": "Apache-2.0"}),
    )
