"""OpenAPI extensions for our tokens and pydantic bodies. Importing this module registers them in drf-spectacular."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import Direction
from pydantic import BaseModel
from rest_framework.serializers import BaseSerializer

from finetune_hub.api.serializers.deletions import RELATED_KINDS
from finetune_hub.jobs.kinds.kind import KINDS
from finetune_hub.operations.deletion.actions import DELETABLE
from finetune_hub.spec.row_kinds import RowKind

SCHEMA_SETTINGS: dict[str, Any] = {
    "OAS_VERSION": "3.1.1",  # The version of pydantic's JSON schemas.
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "finetune_hub.api.schema.answers_are_whole",
    ],
    "ENUM_NAME_OVERRIDES": {
        "JobState": "finetune_hub.jobs.models.JobState",
        "AttemptState": "finetune_hub.jobs.models.AttemptState",
        "BaseModelState": "finetune_hub.catalog.models.BaseModelState",
        "RowKind": [kind.value for kind in RowKind],
        "JobKind": [(kind.name, kind.label) for kind in KINDS.values()],
        "Role": "finetune_hub.accounts.models.Role",
        "Scope": "finetune_hub.accounts.models.Scope",
        "DeviceKind": "finetune_hub.fleet.models.DeviceKind",
        "DeletableKind": list(DELETABLE),
        "RelatedKind": RELATED_KINDS,
    },
}


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "finetune_hub.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "A token created with `create_token` or on the account page.",
        }


class PydanticBody(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    """Pydantic request bodies: their JSON schema is the documentation (P4)."""

    target_class = "pydantic.BaseModel"
    match_subclasses = True

    def get_name(self, auto_schema: AutoSchema, direction: Direction) -> str:
        return str(self.target.__name__)

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        model: type[BaseModel] = self.target
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, part in schema.pop("$defs", {}).items():
            component = ResolvedComponent(  # type: ignore[no-untyped-call]
                name=name, type=ResolvedComponent.SCHEMA, schema=part, object=name
            )
            auto_schema.registry.register_on_missing(component)
        return schema


def answers_are_whole(result: dict[str, Any], generator: SchemaGenerator, **_: Any) -> dict[str, Any]:
    """Mark all response fields as required. Our serializers are used for responses only, which have every field."""
    for component in generator.registry._components.values():
        if isinstance(component.object, BaseSerializer):
            schema = result["components"]["schemas"][component.name]
            schema["required"] = sorted(schema["properties"])
    return result
