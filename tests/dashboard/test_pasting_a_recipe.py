"""A pasted recipe is answered key by key and fills in the new-job form; a job's recipe can be downloaded."""

from __future__ import annotations

import json
from typing import Any

import yaml
from django.http import HttpResponse
from django.urls import reverse

from finetune_hub.catalog.aliases import set_alias
from finetune_hub.jobs.models import Job
from finetune_hub.spec.training import TrainingSpec
from tests.dashboard.conftest import World

FOREIGN = {
    "base_model": "tiny",
    "adapter": "qlora",
    "lora_r": 24,
    "datasets": [{"path": "tickets", "type": "alpaca"}],
    "num_epochs": 2,
    "flash_attention": True,
}


def paste(world: World, **changes: Any) -> HttpResponse:
    return world["owner"].post(reverse("recipe-import"), {"text": json.dumps(FOREIGN | changes)})


def test_it_fills_in_the_form_and_submits_nothing(world: World) -> None:
    before = Job.objects.count()
    response = paste(world)
    assert response.status_code == 200
    form = response.context["form"]
    shown = {"base_model": "tiny", "dataset": [("tickets@1", "1")], "method.type": "qlora", "method.rank": 24}
    assert {name: form[name].value() for name in shown} == shown
    assert response.context["gaps"] == []
    page = response.content.decode()
    assert all(f"<code>{key}</code>" in page for key in ("lora_r", "datasets.0.type", "flash_attention"))
    assert f'action="{reverse("job-new")}"' in page
    assert Job.objects.count() == before


def test_an_alias_chooses_its_base_model(world: World) -> None:
    set_alias(world.team, world.alice, alias="acme/large", base_model="tiny")
    response = paste(world, base_model="acme/large")
    assert response.context["form"]["base_model"].value() == "tiny"
    assert response.context["gaps"] == []


def test_what_the_hub_does_not_have_is_said(world: World) -> None:
    response = paste(world, base_model="acme/large", datasets=[{"path": "a/b"}, {"path": "c/d"}])
    gaps = " ".join(response.context["gaps"])
    assert "`acme/large`" in gaps
    assert "`a-b`" in gaps
    assert "`c-d`" in gaps


def test_a_refused_or_unreadable_recipe_stays_in_the_box(world: World) -> None:
    refused = paste(world, rl="kto")
    assert refused.status_code == 422
    assert "no KTO objective" in refused.content.decode()
    unreadable = world["owner"].post(reverse("recipe-import"), {"text": "a: ["})
    assert unreadable.status_code == 422
    assert "is not YAML" in unreadable.content.decode()


def test_a_job_comes_back_as_the_recipe_that_was_submitted(world: World) -> None:
    response = world["viewer"].get(reverse("job-recipe", args=[world.job.pk]))
    assert response["Content-Disposition"].endswith(f'"{world.job.pk}.yaml"')
    assert TrainingSpec.model_validate(yaml.safe_load(response.content)) == world.job.training_spec()
    assert (
        reverse("job-recipe", args=[world.job.pk])
        in world["viewer"].get(reverse("job", args=[world.job.pk])).content.decode()
    )
