"""A field of a document that holds one of several models, distinguished by `type`.

The models are looked up whenever a document is read, so plugins' models are read like our own. Errors say
`method.rank`; a plain pydantic union would say `method.lora.rank`, a path that no recipe contains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from finetune_hub.spec.part import Part

Model = TypeVar("Model", bound=Part)


@dataclass(frozen=True)
class OneOf(Generic[Model]):
    """Annotates the field: `Annotated[Method, OneOf(METHODS, usual="lora")]`."""

    models: Mapping[str, type[Model]]
    """By `type`."""
    usual: str
    """The type to use if the document names none."""

    def model_of(self, document: Any) -> type[Model] | None:
        """Return the model for a document's `type`; None if the type is unknown."""
        name = document.get("type", self.usual) if isinstance(document, dict) else getattr(document, "type", None)
        return self.models.get(name) if isinstance(name, str) else None

    def read(self, document: Any) -> Model:
        if (model := self.model_of(document)) is not None:
            return model.model_validate(document)
        if not isinstance(document, dict):
            raise PydanticCustomError("one_of_type", "Input should be an object with a `type`")
        raise PydanticKnownError(
            "union_tag_invalid",
            {
                "discriminator": "'type'",
                "tag": str(document["type"]),
                "expected_tags": ", ".join(map(repr, self.models)),
            },
        )

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        choices = {name: model.__pydantic_core_schema__ for name, model in self.models.items()}
        return handler(core_schema.tagged_union_schema(choices, discriminator="type"))
