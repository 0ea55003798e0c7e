"""The new-job form, generated from `TrainingSpec` with its fields, defaults, ranges and help texts (P4).

A field's name is its path in the spec: `training.epochs`. The form has the fields of all methods and objectives; the
page's script hides those of methods and objectives that are not chosen, and they are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django import forms
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.dashboard.datasets_field import DatasetsField, Picked
from finetune_hub.dashboard.forms import PLAIN_TEXT, TeamForm, key_of_form
from finetune_hub.dashboard.model_fields import form_field, label_of, parsed, purpose_of, typed
from finetune_hub.jobs.models import HIGHEST_PRIORITY, LOWEST_PRIORITY, Job
from finetune_hub.scheduling.presets import PRESETS, Preset
from finetune_hub.spec.compatibility import Compatibility, compatibility_of
from finetune_hub.spec.methods.method import Method
from finetune_hub.spec.methods.registry import METHODS
from finetune_hub.spec.objectives.objective import Objective
from finetune_hub.spec.objectives.registry import OBJECTIVES
from finetune_hub.spec.part import Part, choices_of
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import EvaluationOptions, RuntimeOptions, TrainingOptions, TrainingSpec

PARTS: dict[str, type[Part]] = {
    "training": TrainingOptions,
    "evaluation": EvaluationOptions,
    "runtime": RuntimeOptions,
}
UNIONS: Mapping[str, Mapping[str, type[Method] | type[Objective]]] = {"method": METHODS, "objective": OBJECTIVES}


def first_fields() -> list[str]:
    """Return the fields that methods and objectives show first, each once."""
    owners = [(part, model) for part, models in UNIONS.items() for model in models.values()]
    return list(dict.fromkeys(f"{part}.{name}" for part, model in owners for name in model.first_fields))


ESSENTIAL = [
    "training.epochs",
    "training.learning_rate",
    *first_fields(),
    "training.micro_batch_size",
    "training.gradient_accumulation_steps",
    "training.max_seq_len",
    "evaluation.fraction",
]
WHEN_AND_WHERE = ["priority", "after", "runtime.max_duration", "runtime.device", "runtime.gpus", "runtime.labels"]
LABELS = {  # For fields whose own name is not clear enough.
    "evaluation.fraction": "Held-out share",
    "runtime.max_duration": "Stop after",
    "runtime.device": "Kind of device",
    "runtime.gpus": "How many devices",
    "runtime.labels": "Labels of the worker",
    "training.max_seq_len": "Context length",
}
OWN = ("own", "My own values")
LEARNING_RATE = "training.learning_rate"  # The default depends on the method, so the field starts empty.
YES_NO = [("true", "yes"), ("false", "no")]


class TrainingForm(TeamForm):
    """Form for a whole `TrainingSpec`. A blank field takes the model's default."""

    refusal_fields = {"datasets": "dataset"}

    dataset = DatasetsField(
        label="Datasets",
        help_text="The rows to train on. A row of weight 2 is drawn twice as often as one of weight 1.",
    )
    base_model = forms.ChoiceField(help_text="The pretrained model to train the adapter for.")
    adapter_name = forms.CharField(required=False, label="Adapter name", widget=forms.TextInput())
    form_token = forms.CharField(widget=forms.HiddenInput)
    priority = forms.IntegerField(
        required=False,
        initial=0,
        widget=forms.NumberInput(attrs={"min": LOWEST_PRIORITY, "max": HIGHEST_PRIORITY}),
        help_text="Higher priorities start first; 0 is normal. Only admins can go above 0.",
    )
    after = forms.ChoiceField(
        required=False,
        label="After another job",
        help_text="Starts once that job has succeeded; fails if that job fails.",
    )
    preset = forms.ChoiceField(required=False, choices=[*((name, aim.title) for name, aim in PRESETS.items()), OWN])
    allow_unfit = forms.BooleanField(required=False, label="Submit it even if it fits on no device")

    spec: TrainingSpec
    fits_nowhere = False

    def __init__(
        self,
        *args: Any,
        teams: Sequence[Team],
        versions: Iterable[DatasetVersion],
        base_models: Iterable[BaseModel],
        unfinished: Iterable[Job] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, teams=teams, **kwargs)
        base_models = list(base_models)
        self.model_types = {model.name: model.model_type for model in base_models}
        self.dataset_field.choices = [
            (dataset_value(version), self._label(version.dataset.team_id, f"{version} · {version.row_count:,} rows"))
            for version in versions
        ]
        self.base_model_field.choices = [(model.name, self._label(model.team_id, model.name)) for model in base_models]
        after = self.fields["after"]
        assert isinstance(after, forms.ChoiceField)
        after.choices = [
            ("", "—"),
            *(
                (job.pk, self._label(job.team_id, f"{job.subject} · {job.shown_state} · {job.pk}"))
                for job in unfinished
            ),
        ]
        adapter = self.fields["adapter_name"]
        adapter.help_text = TrainingSpec.model_fields["adapter_name"].description or ""
        adapter.widget.attrs |= {"placeholder": "support-tickets", **PLAIN_TEXT}
        for part, models in UNIONS.items():
            self.fields[f"{part}.type"] = forms.ChoiceField(
                required=part == "method",
                choices=[(name, purpose_of(model)) for name, model in models.items()],
                label=part.capitalize(),
            )
        # Methods have different default learning rates: the page's script clears the field when the method changes.
        rates = {name: model.default_learning_rate for name, model in METHODS.items()}
        self.fields["method.type"].widget.attrs["data-learning-rates"] = json.dumps(rates)
        for key, info, owners in SPEC_FIELDS:
            field = self.fields[key] = spec_field(key, info)
            if owners:
                field.widget.attrs |= {"data-of": f"{key.partition('.')[0]}.type", "data-types": " ".join(owners)}

    @property
    def dataset_field(self) -> DatasetsField:
        field = self.fields["dataset"]
        assert isinstance(field, DatasetsField)
        return field

    def dataset_lines(self) -> list[Picked]:
        """Return the selected lines; at least one, with the first choice."""
        return self["dataset"].value() or [Picked("")]

    def presets(self) -> list[tuple[str, str, str, bool]]:
        """Return name, title, purpose and whether it is chosen, for each preset."""
        chosen = self["preset"].value() or OWN[0]
        offered = [(name, aim.title, aim.purpose) for name, aim in PRESETS.items()]
        return [(*offer, offer[0] == chosen) for offer in [*offered, (*OWN, "Fill in the values yourself.")]]

    def explain(self, preset: Preset) -> None:
        """Show the reason for each of the preset's values next to its field."""
        for value in preset.values:
            self.fields[value.field].reason = value.reason  # type: ignore[attr-defined]

    def add_refusal(self, refusal: Refusal) -> None:
        super().add_refusal(refusal)
        self.fits_nowhere = refusal.code == "does_not_fit"

    @property
    def base_model_field(self) -> forms.ChoiceField:
        field = self.fields["base_model"]
        assert isinstance(field, forms.ChoiceField)
        return field

    @property
    def method_field(self) -> forms.BoundField:
        return self["method.type"]

    @property
    def objective_field(self) -> forms.BoundField:
        return self["objective.type"]

    def essential(self) -> list[forms.BoundField]:
        return [self[name] for name in ESSENTIAL]

    def when_and_where(self) -> list[forms.BoundField]:
        return [self[name] for name in WHEN_AND_WHERE]

    def wishes_when_or_where(self) -> bool:
        """Return whether any of these fields is set or has an error, so that they are shown unfolded."""
        usual = {None, "", "0", "1"}
        return any(field.errors or str(field.value() or "") not in usual for field in self.when_and_where())

    def advanced(self) -> dict[str, list[forms.BoundField]]:
        """Return all other fields, grouped by part of the spec."""
        parts: dict[str, list[forms.BoundField]] = {}
        for key, _, _ in SPEC_FIELDS:
            if key not in ESSENTIAL and key not in WHEN_AND_WHERE:
                parts.setdefault(key.partition(".")[0], []).append(self[key])
        return parts

    def has_advanced_errors(self) -> bool:
        return any(field.errors for fields in self.advanced().values() for field in fields)

    def recipe(self) -> dict[str, Any]:
        """Return the form as a recipe with every default written out."""
        return self.spec.model_dump(mode="json", exclude_none=True)

    def place_in_line(self) -> dict[str, Any]:
        """Return `priority` and `after` if set: arguments of `submit_training` and of the API."""
        typed = {name: self.cleaned_data[name] for name in ("priority", "after")}
        return {name: value for name, value in typed.items() if value}

    def submission(self) -> dict[str, Any]:
        """Return the body that submits the form to the API."""
        return self.recipe() | self.place_in_line()

    def command(self) -> str:
        """Return the command that submits the recipe."""
        options = [f" --{name} {value}" for name, value in self.place_in_line().items()]
        return "finetune-hub jobs submit recipe.yaml" + "".join(options)

    def idempotency_key(self) -> str:
        return key_of_form(self.cleaned_data["form_token"], json.dumps(self.submission(), sort_keys=True))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        try:
            self.spec = TrainingSpec.model_validate(self.document(self.cleaned_data))
        except ValidationError as error:
            self.add_defects(error, TrainingSpec)
        return cleaned

    def document(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the input in the shape of a spec. The model converts strings to numbers."""
        document: dict[str, Any] = {
            "base_model": values.get("base_model"),
            "datasets": [choice_of(picked) for picked in values.get("dataset") or []],
            "adapter_name": values.get("adapter_name") or None,
        }
        for part, models in UNIONS.items():
            document[part] = {"type": values.get(f"{part}.type") or next(iter(models))}
        for key, info, owners in SPEC_FIELDS:
            part, _, field = key.partition(".")
            if (value := values.get(key)) and (not owners or document[part]["type"] in owners):
                document.setdefault(part, {})[field] = parsed(info, value)
        return document

    def compatibility(self) -> list[Compatibility]:
        """Return which programs can serve the adapter; empty if the method's fields are invalid."""
        if self.is_bound:
            if any(key.startswith("method.") for key in self.errors):
                return []
            values = self.cleaned_data
        else:
            first = next(iter(self.model_types), None)  # The browser preselects the first choice.
            values = {
                key: self.get_initial_for_field(field, key) for key, field in self.fields.items() if key != "dataset"
            }
            values["base_model"] = values["base_model"] or first
        document = self.document(
            {key: str(value) for key, value in values.items() if value is not None and key != "dataset"}
        )
        try:
            spec = METHODS[document["method"]["type"]].model_validate(document["method"])
        except ValidationError:
            return []
        return compatibility_of(spec, self.model_types.get(document["base_model"]))

    def _label(self, team_id: int, text: str) -> str:
        if len(self.teams) == 1:
            return text
        return f"{next(team.name for team in self.teams if team.pk == team_id)}: {text}"


def dataset_value(version: DatasetVersion) -> str:
    return f"{version.dataset.name}@{version.number}"


def choice_of(picked: Picked) -> dict[str, Any]:
    """Return an entry for the spec's `datasets`."""
    name, _, number = picked.dataset.rpartition("@")
    return {"name": name, "version": number, "weight": picked.weight}


def spec_fields() -> Iterable[tuple[str, FieldInfo, list[str]]]:
    """Yield each form field that is a field of the spec: its name, the model's field, and the types that own it."""
    owned: dict[str, tuple[FieldInfo, list[str]]] = {}
    for part, models in UNIONS.items():
        for type_, model in models.items():
            for name, info in model.model_fields.items():
                if len(choices_of(info.annotation)) != 1:  # Skips `type` and others with one choice.
                    owned.setdefault(f"{part}.{name}", (info, []))[1].append(type_)
    for key, (info, owners) in owned.items():
        yield key, info, owners
    for part, options in PARTS.items():
        for name, info in options.model_fields.items():
            yield f"{part}.{name}", info, []


SPEC_FIELDS = list(spec_fields())


def spec_field(key: str, info: FieldInfo) -> forms.Field:
    """Return the form field for a field of the spec. The learning rate starts empty, with a placeholder."""
    name = LABELS.get(key) or label_of(key.partition(".")[2])
    if key == LEARNING_RATE:
        field = form_field(info, label=name, default=None)
        field.widget.attrs["placeholder"] = "the method's default"
    else:
        field = form_field(info, label=name)
    field.required = False  # It may belong to a method that is not chosen; the model checks what is missing.
    return field


def initial_from(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the form's initial values for an earlier spec."""
    parsed = TrainingSpec.model_validate(spec)
    initial: dict[str, Any] = {"base_model": parsed.base_model, "adapter_name": parsed.adapter_name}
    initial["dataset"] = [
        Picked(f"{choice.name}@{choice.version}", f"{choice.weight:g}")
        for choice in parsed.datasets
        if choice.name and choice.version
    ]
    for part in (*UNIONS, *PARTS):
        for name, value in getattr(parsed, part).model_dump().items():
            initial[f"{part}.{name}"] = typed(value)
    return initial
