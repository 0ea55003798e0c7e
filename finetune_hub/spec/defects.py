"""What is wrong with a document that does not fit its model: one entry a defect, with its place, in words for users."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


def defects_of(error: ValidationError, model: type[BaseModel]) -> Iterator[dict[str, Any]]:
    """`loc`, `message` and `remedy` of each defect; a misspelt key is answered with the nearest name of the model."""
    for defect in error.errors(include_url=False, include_context=False):
        message, remedy = defect["msg"].removeprefix("Value error, "), "Give it a value that fits."
        if defect["type"] == "extra_forbidden":
            nearest = difflib.get_close_matches(str(defect["loc"][-1]), _field_names(model), n=1)
            message = "there is no such field"
            remedy = f"Did you mean `{nearest[0]}`?" if nearest else "Leave it out."
        elif defect["type"] == "missing":
            message, remedy = "is required", "Add it."
        yield {"loc": list(defect["loc"]), "message": message[:1].lower() + message[1:], "remedy": remedy}


def _field_names(model: type[BaseModel]) -> list[str]:
    """The names of all fields of the model and of its parts."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for part in parts for name in part.get("properties", {})})
