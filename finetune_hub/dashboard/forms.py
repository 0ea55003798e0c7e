"""The forms of the pages. What a value may be is decided by actions and pydantic models; here it gets a place."""

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

PLAIN_TEXT = {"autocapitalize": "none", "spellcheck": "false"}  # Names and paths are no prose.

NO_FILE = {"required": "Choose a file."}
COLUMN_FIELD = "part:"  # And the column's own name.


def key_of_form(form_token: str, content: str) -> str:
    """The same page sent twice with the same content is one job; sent with other content it is another."""
    return f"form-{form_token[:64]}-{hashlib.sha256(content.encode()).hexdigest()}"


class RefusableForm(forms.Form):
    """A form that shows what an action refused."""

    # Fields that a refusal names otherwise than the form does.
    refusal_fields: dict[str, str] = {}

    def add_refusal(self, refusal: Refusal) -> None:
        """Show what an action refused beside its field, or above the form when it has none here.

        Raises:
            Refusal: the user may not do it at all, whatever the form says: that is a page of its own.
        """
        if refusal.kind == "forbidden" and refusal.field is None:
            raise refusal
        field = self.refusal_fields.get(refusal.field or "", refusal.field)
        self.add_error(field if field in self.fields else None, str(refusal))

    def add_defects(self, error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> None:
        """Show what is wrong with a document beside its fields, in the words in which API and terminal say it.

        A field that is wrong by itself already keeps that alone.
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
    """A form whose outcome belongs to a team: asked for when the user may submit in several."""

    def __init__(self, *args: Any, teams: Sequence[Team], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.teams = list(teams)
        if len(self.teams) > 1:
            self.fields["team"] = forms.ChoiceField(
                choices=[(team.slug, team.name) for team in self.teams], help_text="Its members will see it."
            )

    @property
    def team_field(self) -> forms.BoundField | None:
        """The choice of the team, where there is one."""
        return self["team"] if "team" in self.fields else None

    @property
    def team(self) -> Team:
        """The team chosen; the only one when there was no choice."""
        slug = self.cleaned_data.get("team", self.teams[0].slug)
        return next(team for team in self.teams if team.slug == slug)


class FileForm(TeamForm):
    """A form with a file; a large one was sent in parts before, and `upload` names it."""

    refusal_fields = {"upload": "file"}

    upload = forms.CharField(required=False, max_length=40, widget=forms.HiddenInput())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["file"].required = not self.data.get("upload")


class MappingForm(TeamForm):
    """A form for rows, which asks what their columns are once they belong to no known format."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.columns: list[str] = [
            name.removeprefix(COLUMN_FIELD) for name in self.data if name.startswith(COLUMN_FIELD)
        ]

    @property
    def mapping(self) -> dict[str, str]:
        """Column → part, of the columns that were given one."""
        parts = {column: self.data.get(COLUMN_FIELD + column, "") for column in self.columns}
        return {column: part for column, part in parts.items() if part}

    def column_choices(self) -> list[tuple[str, str, list[tuple[str, str, bool]]]]:
        """Field name, column, and the parts it can play with the chosen one marked, for each column to be mapped."""
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
        help_text="JSONL, JSON, CSV, TSV, Parquet or text, also compressed (gzip, zstd). What is in it is found out.",
        # Kept by htmx when the form comes back with errors: nobody picks the file twice.
        widget=forms.FileInput(attrs={"hx-preserve": "true"}),
    )
    quarantine = forms.BooleanField(
        required=False,
        label="Go on with the good rows",
        help_text="Rows with errors are set aside, to be downloaded and fixed.",
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
        help_text="`hf:owner/name@revision`, with `:split` or `:path/of/a/file` behind it; or an `https://` address.",
        widget=forms.TextInput(attrs={"placeholder": "hf:owner/name:train", **PLAIN_TEXT}),
    )
    quarantine = forms.BooleanField(required=False, label="Go on with the good rows")


class UploadBeginForm(TeamForm):
    """A large file that will be sent in parts."""

    file_name = forms.CharField(max_length=255)
    size_bytes = forms.IntegerField(min_value=1, max_value=2**62)
    fingerprint = forms.CharField(max_length=255)


class QuotaForm(forms.Form):
    """What a team may have of the fleet."""

    max_devices = forms.IntegerField(
        required=False, min_value=0, max_value=100_000, label="Devices at a time", help_text="Empty: no limit."
    )
    max_hours = forms.FloatField(
        required=False, min_value=0, max_value=1e9, label="Device hours a month", help_text="Empty: no limit."
    )
    weight = forms.FloatField(
        min_value=0.001, max_value=1000, help_text="Its part of a full fleet, relative to the other teams."
    )

    @classmethod
    def of(cls, use: TeamUse) -> QuotaForm:
        """Filled with what holds now."""
        quota = use.quota
        initial = {"max_devices": quota.max_devices, "max_hours": quota.max_hours, "weight": quota.weight}
        return cls(initial=initial, prefix=use.team.slug)


class InvitationForm(RefusableForm):
    """A worker to invite."""

    name = forms.CharField(
        max_length=64,
        help_text="What the machine is to be called here: a-z, 0-9 and -.",
        widget=forms.TextInput(attrs={"placeholder": "gpu-7", **PLAIN_TEXT}),
    )


class PartForm(forms.Form):
    """Where a part of an upload begins."""

    offset = forms.IntegerField(min_value=0, max_value=2**62)


class PreviewForm(forms.Form):
    """Which row to look at, through which base model, and how many tokens of it are kept."""

    base_model = forms.CharField(max_length=40)
    max_seq_len = forms.IntegerField(min_value=1, max_value=1_048_576)
    row = forms.IntegerField(min_value=1)


class SplitForm(forms.Form):
    """How many rows to hold out, and by which seed."""

    percent = forms.FloatField(min_value=1, max_value=90)
    seed = forms.IntegerField(min_value=0, max_value=2**31 - 1)


class RecipeForm(forms.Form):
    """A recipe of any known program, pasted."""

    text = forms.CharField(
        label="YAML",
        max_length=MAX_CHARACTERS,
        strip=False,
        help_text="The file's whole text. Each key of it is answered: taken, changed, or not supported and why.",
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
        help_text="The name it gets here.",
        widget=forms.TextInput(attrs={"placeholder": "my-model", **PLAIN_TEXT}),
    )
    file = forms.FileField(
        error_messages=NO_FILE,
        label="GGUF file",
        help_text="Any size; it goes on where it was when the connection breaks.",
        widget=forms.FileInput(attrs={"accept": ".gguf", "hx-preserve": "true"}),
    )


class AliasForm(TeamForm):
    alias = forms.CharField(
        max_length=MAX_ALIAS_LENGTH,
        help_text="What a pipeline sends.",
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
        help_text="The name it gets here.",
        widget=forms.TextInput(attrs={"placeholder": "my-model", **PLAIN_TEXT}),
    )
    source = forms.CharField(
        max_length=500,
        help_text="`hf:owner/name@revision` on Hugging Face, with `:FILE.gguf` for a GGUF file there; "
        "or `folder:NAME`, a folder or GGUF file below the service's `models` folder.",
        widget=forms.TextInput(attrs={"placeholder": "hf:Qwen/Qwen2.5-0.5B-Instruct", **PLAIN_TEXT}),
    )
    license = forms.CharField(
        max_length=100,
        required=False,
        label="Licence",
        help_text="Read from the source where it names one.",
        widget=forms.TextInput(attrs={"placeholder": "Apache-2.0"}),
    )
