"""Validation errors of a document, one entry per defect with its location, worded for users."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

from pydantic import BaseModel, ValidationError

from finetune_hub.spec.refusal import Refusal

Schema = dict[str, Any]


class DocumentDefect(TypedDict):
    """One defect, as listed in the API's `details`."""

    loc: list[int | str]
    """The path to the field in the document."""
    message: str
    """A clause without a full stop."""
    remedy: str


def refuse_document(error: ValidationError, model: type[BaseModel], code: str) -> Refusal:
    """Return the refusal of a document that does not match its model, with one entry in `details` per defect."""
    details = list(defects_of(error, model))
    first, more = details[0], len(details) - 1
    rest = f" ({more} more {'error' if more == 1 else 'errors'} below.)" if more else ""
    field = ".".join(map(str, first["loc"])) or None
    place = f"`{field}`: " if field else ""
    message = f"{place}{first['message']}.{rest}"
    return Refusal(code, message, first["remedy"], field=field, details=[{**detail} for detail in details])


def defects_of(error: ValidationError, model: type[BaseModel]) -> Iterator[DocumentDefect]:
    """Yield each defect of the document, in the words that page, API and terminal share.

    For an unknown field, the remedy suggests the closest field name, or the part that the field belongs in.
    """
    for defect in error.errors(include_url=False, include_context=False):
        message, remedy = defect["msg"].removeprefix("Value error, ").rstrip("."), "Enter a valid value."
        if defect["type"] == "extra_forbidden":
            message, remedy = "there is no such field", _advice(model.model_json_schema(), defect["loc"])
        elif defect["type"] == "missing":
            message, remedy = "is required", "Add it."
        yield {"loc": list(defect["loc"]), "message": message[:1].lower() + message[1:], "remedy": remedy}


def _advice(schema: Schema, place: Sequence[int | str]) -> str:
    """Return what to do about an unknown field."""
    *above, field = place
    part = schema
    for step in above:
        part = _step_into(schema, part, step)
    if nearest := difflib.get_close_matches(str(field), _fields_of(schema, part), n=1):
        return f"Did you mean `{nearest[0]}`?"
    for name, inner in schema.get("properties", {}).items():
        if field in _fields_of(schema, inner):
            return f"It belongs in `{name}`."
    return "Remove it."


def _step_into(schema: Schema, part: Schema, step: int | str) -> Schema:
    """Return the schema one step down; a step that names a variant of a union leads to that variant."""
    for variant in _variants(schema, part):
        if isinstance(step, int) and "items" in variant:
            return dict(variant["items"])
        if step in variant.get("properties", {}):
            return dict(variant["properties"][step])
        if variant.get("properties", {}).get("type", {}).get("const") == step:
            return variant
    return part


def _fields_of(schema: Schema, part: Schema) -> list[str]:
    """Return the field names of a schema: of all variants for a union, of the items for a list."""
    names: set[str] = set()
    for variant in _variants(schema, part):
        names |= variant.get("properties", {}).keys()
        if "items" in variant:
            names.update(_fields_of(schema, variant["items"]))
    return sorted(names)


def _variants(schema: Schema, part: Schema) -> list[Schema]:
    """Return the schema, or its variants if it is a union, with references resolved."""
    if "$ref" in part:
        return _variants(schema, schema["$defs"][part["$ref"].rpartition("/")[2]])
    inner = [*part.get("anyOf", []), *part.get("oneOf", []), *part.get("allOf", [])]
    return [found for each in inner for found in _variants(schema, each)] if inner else [part]
