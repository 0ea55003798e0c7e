"""Presets over the API, and jobs that fit no device."""

from __future__ import annotations

from typing import Any

from finetune_hub.catalog.models import BaseModel
from finetune_hub.jobs.models import Job
from finetune_hub.scheduling.presets import PRESETS
from finetune_hub.spec.training import TrainingSpec
from tests.api.conftest import World
from tests.factories import make_dataset_version
from tests.jobs.test_planning import LLAMA_13B

QUESTION: dict[str, Any] = {"base_model": "tiny", "datasets": [{"name": "tickets", "weight": 2}]}


def test_a_preset_is_a_job_that_can_be_submitted(world: World) -> None:
    response = world["owner"].post("/api/presets", QUESTION, format="json")
    assert response.status_code == 200
    presets = response.json()["presets"]
    assert [preset["name"] for preset in presets] == list(PRESETS)
    for preset in presets:
        spec = TrainingSpec.model_validate(preset["spec"])
        assert spec.datasets[0].weight == 2
        document = spec.model_dump(mode="json")
        for value in preset["values"]:
            part, _, field = value["field"].partition(".")
            assert document[part][field] == value["value"]
            assert value["reason"]
    submitted = world["owner"].post("/api/jobs", presets[0]["spec"], format="json")
    assert submitted.status_code == 201
    assert submitted.json()["memory_bytes_needed"] > 0


def test_pairs_choose_dpo(world: World) -> None:
    rows = [{"prompt": f"{number}?", "chosen": "yes", "rejected": "no"} for number in range(8)]
    make_dataset_version(world.team, "pairs", rows=rows)
    body = QUESTION | {"datasets": [{"name": "pairs"}], "presets": ["balanced"]}
    (preset,) = world["owner"].post("/api/presets", body, format="json").json()["presets"]
    assert preset["spec"]["objective"]["type"] == "dpo"


def test_an_unknown_preset_is_refused(world: World) -> None:
    response = world["owner"].post("/api/presets", QUESTION | {"presets": ["fastest"]}, format="json")
    assert (response.status_code, response.json()["error"]["code"]) == (422, "unknown_preset")


def test_what_fits_nowhere_is_refused_unless_it_is_allowed_to(world: World) -> None:
    model = BaseModel.objects.get(name="tiny")
    BaseModel.objects.filter(pk=model.pk).update(facts=model.facts | LLAMA_13B)
    spec = {"base_model": "tiny", "dataset": {"name": "tickets"}, "runtime": {"dtype": "bfloat16"}}
    before = Job.objects.count()
    error = world["owner"].post("/api/jobs", spec, format="json").json()["error"]
    assert error["code"] == "does_not_fit"
    assert error["details"][0]["changes"]
    assert Job.objects.count() == before
    assert world["owner"].post("/api/jobs?allow_unfit=true", spec, format="json").status_code == 201
    assert world["owner"].post("/api/jobs?allow_unfit=perhaps", spec, format="json").status_code == 422
