"""The new-job form, grown from `TrainingSpec`: its fields, defaults, ranges and help are the model's own (P4)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from django import forms
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.dashboard.forms import PLAIN_TEXT, TeamForm
from finetune_hub.spec.training import LoraMethod, Part, RuntimeOptions, TrainingOptions, TrainingSpec

PARTS: dict[str, type[Part]] = {"method": LoraMethod, "training": TrainingOptions, "runtime": RuntimeOptions}
ESSENTIAL = [
    "training.epochs",
    "training.learning_rate",
    "method.rank",
    "method.alpha",
    "training.micro_batch_size",
    "training.max_seq_len",
]


class TrainingForm(TeamForm):
    """One page for a whole TrainingSpec. A field left blank takes the model's default."""

    refusal_fields = {"datasets": "dataset"}

    dataset = forms.ChoiceField(help_text="The conversations to learn from.")
    base_model = forms.ChoiceField(help_text="The pretrained model that the adapter sits on.")
    adapter_name = forms.CharField(required=False, label="Adapter name", widget=forms.TextInput())
    form_token = forms.CharField(widget=forms.HiddenInput)

    spec: TrainingSpec

    def __init__(
        self,
        *args: Any,
        teams: Sequence[Team],
        versions: Iterable[DatasetVersion],
        base_models: Iterable[BaseModel],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, teams=teams, **kwargs)
        self.dataset_field.choices = [
            (dataset_value(version), self._label(version.dataset.team_id, f"{version} · {version.row_count:,} rows"))
            for version in versions
        ]
        self.base_model_field.choices = [(model.name, self._label(model.team_id, model.name)) for model in base_models]
        adapter = self.fields["adapter_name"]
        adapter.help_text = TrainingSpec.model_fields["adapter_name"].description or ""
        adapter.widget.attrs |= {"placeholder": "support-tickets", **PLAIN_TEXT}
        for part, model in PARTS.items():
            for name, info in model.model_fields.items():
                if name != "type":
                    self.fields[f"{part}.{name}"] = form_field(name, info)

    @property
    def dataset_field(self) -> forms.ChoiceField:
        field = self.fields["dataset"]
        assert isinstance(field, forms.ChoiceField)
        return field

    @property
    def base_model_field(self) -> forms.ChoiceField:
        field = self.fields["base_model"]
        assert isinstance(field, forms.ChoiceField)
        return field

    def essential(self) -> list[forms.BoundField]:
        return [self[name] for name in ESSENTIAL]

    def advanced(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if "." in name and name not in ESSENTIAL]

    def has_advanced_errors(self) -> bool:
        return any(field.errors for field in self.advanced())

    def recipe(self) -> dict[str, Any]:
        """What was typed as a document, every default written out: what a file or a program would send."""
        return self.spec.model_dump(mode="json", exclude_none=True)

    def idempotency_key(self) -> str:
        """The same page sent twice with the same content is one job; sent with other content it is another."""
        content = hashlib.sha256(self.spec.model_dump_json().encode()).hexdigest()
        return f"form-{self.cleaned_data['form_token'][:64]}-{content}"

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        try:
            self.spec = TrainingSpec.model_validate(self.document())
        except ValidationError as error:
            for defect in error.errors(include_url=False, include_context=False):
                self._add_defect(defect["loc"], defect["msg"].removeprefix("Value error, "))
        return cleaned

    def document(self) -> dict[str, Any]:
        """What was typed, in the shape of a spec; the model turns texts into numbers."""
        values = self.cleaned_data
        name, _, number = values.get("dataset", "").rpartition("@")
        document: dict[str, Any] = {
            "base_model": values.get("base_model"),
            "datasets": [{"name": name, "version": number}],
            "adapter_name": values.get("adapter_name") or None,
        }
        for key in self.fields:
            part, dot, field = key.partition(".")
            if dot and (value := values.get(key)):
                document.setdefault(part, {})[field] = parse_modules(value) if field == "target_modules" else value
        return document

    def _add_defect(self, location: tuple[int | str, ...], message: str) -> None:
        key = ".".join(map(str, location[:2]))
        field = self.refusal_fields.get(str(location[0]), key) if location else None
        if field in self.fields and not self.has_error(field):
            self.add_error(field, message)
        elif field not in self.fields:
            self.add_error(None, f"{key}: {message}")

    def _label(self, team_id: int, text: str) -> str:
        if len(self.teams) == 1:
            return text
        return f"{next(team.name for team in self.teams if team.pk == team_id)}: {text}"


def dataset_value(version: DatasetVersion) -> str:
    return f"{version.dataset.name}@{version.number}"


def parse_modules(text: str) -> str | list[str]:
    """`all-linear`, or names between commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return text if names == ["all-linear"] else names


def form_field(name: str, info: FieldInfo) -> forms.Field:
    """A form field with the model field's default and help; numbers carry their inclusive bounds."""
    label = name.replace("_", " ").capitalize()
    default = info.get_default()
    if get_origin(info.annotation) is Literal:
        choices = [(word, word) for word in get_args(info.annotation)]
        return forms.ChoiceField(
            choices=choices, initial=default, label=label, required=False, help_text=info.description or ""
        )
    if isinstance(default, float):
        default = f"{default:g}"
    kinds = {info.annotation, *get_args(info.annotation)}
    widget: forms.Widget = forms.TextInput(attrs=PLAIN_TEXT)
    if kinds & {int, float}:
        attributes = {"step": "any" if float in kinds else "1"}
        for bound in info.metadata:
            if isinstance(bound, Ge):
                attributes["min"] = str(bound.ge)
            elif isinstance(bound, Le):
                attributes["max"] = str(bound.le)
        widget = forms.NumberInput(attrs=attributes)
    return forms.CharField(
        initial=default, label=label, required=False, widget=widget, help_text=info.description or ""
    )


def initial_from(spec: dict[str, Any]) -> dict[str, Any]:
    """The form's values for a spec that was submitted before."""
    parsed = TrainingSpec.model_validate(spec)
    choice = parsed.datasets[0]
    initial: dict[str, Any] = {"base_model": parsed.base_model, "adapter_name": parsed.adapter_name}
    if choice.name and choice.version:
        initial["dataset"] = f"{choice.name}@{choice.version}"
    for part in PARTS:
        for name, value in getattr(parsed, part).model_dump().items():
            initial[f"{part}.{name}"] = ", ".join(value) if isinstance(value, list) else value
    return initial
