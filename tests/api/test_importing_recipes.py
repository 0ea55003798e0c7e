"""`POST /api/recipes/import`: the answer's recipe is what `POST /api/jobs` takes."""

from __future__ import annotations

from typing import Any

from django.test import Client
from django.urls import reverse

from finetune_hub.accounts.actions import create_token
from finetune_hub.spec.training import TrainingSpec
from tests.api.conftest import World

FOREIGN = "model_name_or_path: acme/small\ndo_train: true\ndataset: tickets\ntemplate: llama3\n"


def send(world: World, text: str) -> tuple[int, dict[str, Any]]:
    token = create_token(world.alice, world.team, name="import")[1]
    response = Client(headers={"Authorization": f"Bearer {token}"}).post(
        reverse("api:recipe-import"), {"text": text}, content_type="application/json"
    )
    return response.status_code, response.json()


def test_it_answers_with_a_recipe_and_a_note_for_each_key(world: World) -> None:
    status, answer = send(world, FOREIGN)
    assert (status, answer["program"]) == (200, "LLaMA-Factory")
    assert TrainingSpec.model_validate(answer["recipe"]).base_model == "acme/small"
    assert {note["key"] for note in answer["notes"]} >= {"model_name_or_path", "do_train", "dataset", "template"}


def test_it_refuses_with_the_keys_that_stand_against_it(world: World) -> None:
    status, answer = send(world, FOREIGN + "stage: kto\nimage_max_pixels: 9\n")
    assert (status, answer["error"]["code"]) == (422, "recipe_not_importable")
    assert [detail["loc"] for detail in answer["error"]["details"]] == [["stage"], ["image_max_pixels"]]
    status, answer = send(world, "a: [")
    assert (status, answer["error"]["code"]) == (422, "unreadable_recipe")
