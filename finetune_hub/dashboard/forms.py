"""The forms of the pages. What a value may be is decided by actions and pydantic models; here it gets a place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.template.defaultfilters import filesizeformat

from finetune_hub.accounts.models import Team
from finetune_hub.spec.recipes.translate import MAX_CHARACTERS, Translation, UnreadableRecipe, translate
from finetune_hub.spec.refusal import Refusal

PLAIN_TEXT = {"autocapitalize": "none", "spellcheck": "false"}  # Names and paths are no prose.


class TeamForm(forms.Form):
    """A form whose outcome belongs to a team: asked for when the user may submit in several."""

    # Fields that a refusal names otherwise than the form does.
    refusal_fields: dict[str, str] = {}

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

    def add_refusal(self, refusal: Refusal) -> None:
        """Show what an action refused beside its field, or above the form when it has none here."""
        field = self.refusal_fields.get(refusal.field or "", refusal.field)
        self.add_error(field if field in self.fields else None, f"{refusal.message} {refusal.remedy}")


class DatasetUploadForm(TeamForm):
    name = forms.CharField(
        max_length=64,
        help_text="Lower-case letters and digits, with single '-', '.' or '_' between them. "
        "An existing name gets a new version.",
        widget=forms.TextInput(attrs={"placeholder": "support-tickets", **PLAIN_TEXT}),
    )
    file = forms.FileField(
        allow_empty_file=True,  # The check of the rows says more about an empty file.
        help_text="JSONL: one conversation a line.",
        widget=forms.FileInput(attrs={"accept": ".jsonl,.json,application/jsonl"}),
    )

    def clean_file(self) -> UploadedFile[Any]:
        upload: UploadedFile[Any] = self.cleaned_data["file"]
        if (upload.size or 0) > settings.DATASET_UPLOAD_MAX_BYTES:
            raise forms.ValidationError(
                f"{upload.name} is larger than {filesizeformat(settings.DATASET_UPLOAD_MAX_BYTES)}. "
                "Split it into several datasets and name them all in the job."
            )
        return upload


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
        except UnreadableRecipe as error:
            raise forms.ValidationError(str(error)) from error
        return text


class BaseModelFolderForm(TeamForm):
    name = forms.CharField(
        max_length=64,
        help_text="The name it gets here.",
        widget=forms.TextInput(attrs={"placeholder": "my-model", **PLAIN_TEXT}),
    )
    source = forms.CharField(
        max_length=500,
        label="Folder or GGUF file",
        help_text="`folder:NAME`, below the service's `models` folder.",
        initial="folder:",
        widget=forms.TextInput(attrs=PLAIN_TEXT),
    )
    license = forms.CharField(
        max_length=100, required=False, label="Licence", widget=forms.TextInput(attrs={"placeholder": "Apache-2.0"})
    )
