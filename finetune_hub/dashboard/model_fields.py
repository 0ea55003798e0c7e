"""Form fields generated from a pydantic model, with the model's defaults, ranges and help texts (P4)."""

from __future__ import annotations

import re
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from annotated_types import Ge, Le
from django import forms
from pydantic.fields import FieldInfo

from finetune_hub.dashboard.forms import PLAIN_TEXT
from finetune_hub.spec.part import Part, choices_of

YES_NO = [("true", "yes"), ("false", "no")]
_MODELS_OWN: Any = object()


def kinds_of(annotation: Any) -> set[Any]:
    """Return the plain types of an annotation: each member of a union; `list` for `list[str]`."""
    origin = get_origin(annotation)
    if origin in {Union, UnionType}:
        return set().union(*map(kinds_of, get_args(annotation)))
    if origin is Annotated:
        return kinds_of(get_args(annotation)[0])
    return {origin or annotation}


def label_of(name: str) -> str:
    """Return a label: `max_grad_norm` → `Max grad norm`."""
    return name.replace("_", " ").capitalize()


def parsed(info: FieldInfo, text: str) -> Any:
    """Parse a field's input: comma-separated names into a list, `{key: value}` into a mapping, other text as is."""
    kinds = kinds_of(info.annotation)
    if dict in kinds:
        try:
            return yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError):
            return text  # The model's validation explains the error.
    names = [name.strip() for name in text.split(",") if name.strip()]
    is_pattern = str in kinds and (names == ["all-linear"] or any(re.search(r"[^\w.-]", name) for name in names))
    return names if list in kinds and not is_pattern else text


def form_field(info: FieldInfo, *, label: str, default: Any = _MODELS_OWN) -> forms.Field:
    """Return a form field with the model field's default and help text. Numbers get their inclusive bounds.

    Args:
        default: The form's initial value, if it differs from the model's default.
    """
    if default is _MODELS_OWN:
        default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
    kinds = kinds_of(info.annotation)
    shared: dict[str, Any] = {"label": label, "required": info.is_required(), "help_text": info.description or ""}
    words = [word for kind in (info.annotation, *get_args(info.annotation)) for word in choices_of(kind)]
    if words:
        blank = [] if default is not None else [("", "")]
        return forms.ChoiceField(choices=blank + [(word, word) for word in words], initial=default, **shared)
    if bool in kinds:
        return forms.ChoiceField(choices=YES_NO, initial=str(default).lower(), **shared)
    if isinstance(default, float):
        default = f"{default:g}"
    elif isinstance(default, list):
        default = typed(default)
    widget: forms.Widget = forms.TextInput(attrs=PLAIN_TEXT)
    if kinds & {int, float}:
        attributes = {"step": "any" if float in kinds else "1"}
        for bound in info.metadata:
            if isinstance(bound, Ge):
                attributes["min"] = str(bound.ge)
            elif isinstance(bound, Le):
                attributes["max"] = str(bound.le)
        widget = forms.NumberInput(attrs=attributes)
    return forms.CharField(initial=default, widget=widget, **shared)


def typed(value: Any) -> Any:
    """Format a value of the spec as a person would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list):
        return ", ".join(value)
    return yaml.safe_dump(value, default_flow_style=True).strip() if isinstance(value, dict) else value


def purpose_of(model: type[Part]) -> str:
    """Return the first line of the model's docstring without the citation."""
    return re.sub(r" \(arXiv:[\d.]+\)", "", (model.__doc__ or "").partition("\n")[0]).rstrip(".")
