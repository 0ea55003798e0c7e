"""Form for a job kind that declares its options: one field per option, a choice field for references."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django import forms
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.dashboard.forms import TeamForm, key_of_form
from finetune_hub.dashboard.model_fields import form_field, label_of, parsed
from finetune_hub.jobs.kinds.kind import Kind
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.part import Part
from finetune_hub.spec.references import Reference

OFFERED = 200  # The newest rows of each noun.


class KindForm(TeamForm):
    """The form to submit a job of the kind. A blank field takes the model's default."""

    form_token = forms.CharField(widget=forms.HiddenInput)

    options: Part

    def __init__(self, *args: Any, kind: Kind, teams: Sequence[Team], **kwargs: Any) -> None:
        super().__init__(*args, teams=teams, **kwargs)
        assert kind.options is not None
        self._model = kind.options
        for name, info in self._model.model_fields.items():
            self.fields[name] = self._field_for(name, info)

    def idempotency_key(self) -> str:
        return key_of_form(self.cleaned_data["form_token"], self.options.model_dump_json())

    def shown(self) -> list[forms.BoundField]:
        """The options' fields, in the model's order."""
        return [self[name] for name in self._model.model_fields]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        fields = self._model.model_fields
        typed = {name: parsed(info, str(cleaned[name])) for name, info in fields.items() if cleaned.get(name)}
        try:
            self.options = self._model.model_validate(typed)
        except ValidationError as error:
            self.add_defects(error, self._model)
        return cleaned

    def _field_for(self, name: str, info: FieldInfo) -> forms.Field:
        noun = next((mark.noun for mark in info.metadata if isinstance(mark, Reference)), None)
        if noun is None:
            return form_field(info, label=label_of(name))
        return forms.ChoiceField(
            choices=list(choices_for(noun, self.teams)), label=label_of(name), help_text=info.description or ""
        )


def choices_for(noun: str, teams: Sequence[Team]) -> Iterable[tuple[str, str]]:
    """Return value and label for the teams' newest rows, each name once."""
    if noun == "base_model":
        names = BaseModel.objects.filter(team__in=teams).ready().order_by("name").values_list("name", flat=True)
        return dict.fromkeys((name, name) for name in names[:OFFERED])
    if noun == "dataset":
        versions = DatasetVersion.objects.alive().filter(dataset__team__in=teams).select_related("dataset")
        return dict.fromkeys(
            (f"{version.dataset.name}@{version.number}", f"{version} · {version.row_count:,} rows")
            for version in versions.order_by("-pk")[:OFFERED]
        )
    adapters = AdapterVersion.objects.alive().filter(adapter__team__in=teams).select_related("adapter")
    return [(f"{version.adapter_id}@{version.number}", str(version)) for version in adapters.order_by("-pk")[:OFFERED]]
