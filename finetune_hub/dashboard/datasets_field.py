"""Form field for several datasets with weights, sent as two lists of equal length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from django import forms
from django.http import QueryDict

WEIGHT = "weight"


class Picked(NamedTuple):
    """One line of the field, as entered."""

    dataset: str  # As `name@version`.
    weight: str = "1"


class DatasetsWidget(forms.Widget):
    """Widget that reads the lines. The page's template renders them."""

    def value_from_datadict(self, data: Mapping[str, Any], files: Any, name: str) -> list[Picked]:
        datasets, weights = (
            data.getlist(key) if isinstance(data, QueryDict) else [data[key]] if key in data else []
            for key in (name, WEIGHT)
        )
        pairs = zip_longest(datasets, weights[: len(datasets)], fillvalue="1")
        return [Picked(dataset, weight.strip() or "1") for dataset, weight in pairs if dataset]


class DatasetsField(forms.Field):
    """A list of `Picked`, each one of the choices."""

    widget = DatasetsWidget

    def __init__(self, choices: Sequence[tuple[str, str]] = (), **options: Any) -> None:
        super().__init__(**options)
        self.choices = list(choices)

    def validate(self, value: list[Picked]) -> None:
        super().validate(value)
        known = {name for name, _ in self.choices}
        for picked in value:
            if picked.dataset not in known:
                raise forms.ValidationError(f"{picked.dataset} is not one of the available datasets.")
