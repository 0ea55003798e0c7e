"""A field that is not there is answered with what the document that was sent has, never with the word itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from finetune_hub.api.bodies import NewToken
from finetune_hub.spec.document_defects import defects_of
from finetune_hub.spec.training import TrainingSpec

SPEC = {"base_model": "tiny", "datasets": [{"name": "rows"}]}


@pytest.mark.parametrize(
    ("model", "document", "place", "remedy"),
    [
        (TrainingSpec, {"trainin": {}}, ["trainin"], "Did you mean `training`?"),
        (TrainingSpec, {"training": {"epoch": 2}}, ["training", "epoch"], "Did you mean `epochs`?"),
        (TrainingSpec, {"method": {"type": "lora", "rnk": 2}}, ["method", "rnk"], "Did you mean `rank`?"),
        (TrainingSpec, {"datasets": [{"nme": "x"}]}, ["datasets", 0, "nme"], "Did you mean `name`?"),
        (TrainingSpec, {"epochs": 2}, ["epochs"], "It belongs in `training`."),
        (TrainingSpec, {"rank": 2}, ["rank"], "It belongs in `method`."),
        (TrainingSpec, {"training": {"quantization": 1}}, ["training", "quantization"], "It belongs in `method`."),
        (TrainingSpec, {"zebra": 2}, ["zebra"], "Remove it."),
        (NewToken, {"scope": ["read"]}, ["scope"], "Did you mean `scopes`?"),
        (NewToken, {"compil": True}, ["compil"], "Remove it."),
    ],
)
def test_the_nearest_field_is_offered(
    model: type[BaseModel], document: dict[str, Any], place: list[Any], remedy: str
) -> None:
    needed = SPEC if model is TrainingSpec else {"name": "ci"}
    with pytest.raises(ValidationError) as refused:
        model.model_validate({**needed, **document})
    defects = {tuple(defect["loc"]): defect for defect in defects_of(refused.value, model)}
    assert defects[tuple(place)]["remedy"] == remedy
