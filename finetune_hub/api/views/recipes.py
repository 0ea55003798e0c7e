"""Endpoint that translates recipes of other programs. Nothing is stored."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.bodies import read_body
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.spec.part import Part
from finetune_hub.spec.recipes.draft import Outcome
from finetune_hub.spec.recipes.translate import MAX_CHARACTERS, translate
from finetune_hub.spec.refusal import Refusal


class ForeignRecipe(Part):
    """A recipe to import."""

    text: str = Field(max_length=MAX_CHARACTERS, description="The YAML of Axolotl, of LLaMA-Factory or of this hub.")


class ImportNote(Part):
    """What one key was translated to."""

    key: str
    outcome: Outcome
    sentence: str


class ImportedRecipe(Part):
    """A training spec translated from another program's recipe."""

    program: str = Field(description="The program that the recipe was written for.")
    recipe: dict[str, Any] = Field(description="A training spec for `POST /api/jobs`.")
    yaml: str = Field(description="The same spec as a YAML file.")
    notes: list[ImportNote] = Field(description="At least one note per key of the file.")


class ImportRecipe(HubView):
    rights = {"post": Right.IMPORT_RECIPE}

    @extend_schema(
        operation_id="import_recipe",
        request=ForeignRecipe,
        responses={200: ImportedRecipe, **errors(400, 401, 403, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Translate a recipe of Axolotl or LLaMA-Factory, with notes on each key. Nothing is submitted."""
        body = read_body(request, ForeignRecipe)
        translation = translate(body.text)
        if translation.spec is None:
            details = [
                {"loc": note.key.split("."), "message": note.sentence, "remedy": "Change or remove it."}
                for note in translation.refusals
            ]
            first = translation.refusals[0]
            message = f"`{first.key}` cannot be imported. {first.sentence}"
            raise Refusal(
                "recipe_not_importable", message, "Change or remove it in the recipe.", field="text", details=details
            )
        answer = ImportedRecipe(
            program=translation.program,
            recipe=translation.document,
            yaml=translation.as_yaml(),
            notes=[
                ImportNote(key=note.key, outcome=note.outcome, sentence=note.sentence) for note in translation.notes
            ],
        )
        return Response(answer.model_dump(mode="json"))
