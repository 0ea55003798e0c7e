"""The new-job form filled in by presets, with several datasets, and with what fits no device."""

from __future__ import annotations

import html
from typing import Any

import pytest
from django.http import HttpResponse
from django.urls import reverse

from finetune_hub.catalog.models import BaseModel
from finetune_hub.jobs.models import Job
from finetune_hub.scheduling.presets import DEFAULT_PRESET, PRESETS
from tests.dashboard.conftest import World
from tests.dashboard.test_new_job import FIELDS, errors, submit
from tests.factories import make_dataset_version
from tests.jobs.test_planning import LLAMA_13B


def fill(world: World, **fields: Any) -> HttpResponse:
    return world["owner"].post(reverse("job-new"), FIELDS | {"fill": "1", "preset": "best-quality"} | fields)


def test_a_fresh_form_asks_for_the_first_preset(world: World) -> None:
    page = world["owner"].get(reverse("job-new")).content.decode()
    assert f'data-fill-now="{DEFAULT_PRESET}"' in page
    assert all(aim.title in page for aim in PRESETS.values())
    again = world["owner"].get(reverse("job-new"), {"like": world.job.pk}).content.decode()
    assert "data-fill-now" not in again


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_in_every_number_with_its_reason(world: World, name: str) -> None:
    before = Job.objects.count()
    response = fill(world, preset=name, **{"method.rank": "3"})
    assert response.status_code == 200
    form = response.context["form"]
    assert form["method.rank"].value() == PRESETS[name].rank
    assert form["preset"].value() == name
    assert form["adapter_name"].value() == "fresh"
    assert [line.dataset for line in form.dataset_lines()] == ["tickets@1"]
    page = html.unescape(response.content.decode())
    assert page.count("data-reason") >= 7
    assert "8 rows are few, so each is repeated more often" in page
    assert Job.objects.count() == before


def test_what_was_filled_in_can_be_submitted(world: World) -> None:
    form = fill(world).context["form"]
    shown = {field.name: field.value() for field in form if field.name != "dataset"}
    values = {name: value for name, value in shown.items() if value not in (None, "")}
    job = Job.objects.get(pk=submit(world, **values | {"preset": "own"})["Location"].split("/")[2])
    assert job.training_spec().method.rank == 64  # type: ignore[union-attr]


def test_without_a_dataset_or_with_an_unknown_preset_nothing_is_filled_in(world: World) -> None:
    assert fill(world, dataset="").context["form"]["method.rank"].value() is None
    assert fill(world, preset="fastest").status_code == 200


def test_a_refusal_is_said_in_the_form(world: World) -> None:
    BaseModel.objects.filter(name="tiny").update(facts={})
    assert "Import it again" in html.unescape(fill(world).content.decode())


def test_several_datasets_with_weights(world: World) -> None:
    make_dataset_version(world.team, "letters")
    response = submit(world, dataset=["tickets@1", "letters@1", ""], weight=["1", "2.5", "9"])
    job = Job.objects.get(pk=response["Location"].split("/")[2])
    assert [(choice.name, choice.weight) for choice in job.training_spec().datasets] == [
        ("tickets", 1.0),
        ("letters", 2.5),
    ]
    assert list(job.job_datasets.values_list("weight", flat=True)) == [1.0, 2.5]
    again = world["owner"].get(reverse("job-new"), {"like": job.pk}).context["form"]
    assert [tuple(line) for line in again.dataset_lines()] == [("tickets@1", "1"), ("letters@1", "2.5")]


@pytest.mark.parametrize(
    ("datasets", "weights"), [(["tickets@1", "tickets@1"], ["1", "1"]), (["tickets@1"], ["0"]), (["tickets@1"], ["x"])]
)
def test_an_error_of_a_dataset_lies_beside_them(world: World, datasets: list[str], weights: list[str]) -> None:
    assert "dataset" in errors(submit(world, dataset=datasets, weight=weights))


def test_a_line_is_added_without_a_script(world: World) -> None:
    response = world["owner"].post(reverse("job-new"), FIELDS | {"more_datasets": "1"})
    assert response.status_code == 200
    assert response.content.decode().count('<select name="dataset"') == 2


def test_what_fits_nowhere_is_refused_and_can_be_insisted_on(world: World) -> None:
    model = BaseModel.objects.get(name="tiny")
    BaseModel.objects.filter(pk=model.pk).update(facts=model.facts | LLAMA_13B)
    refused = submit(world, **{"runtime.dtype": "bfloat16"})
    assert refused.status_code == 422
    page = html.unescape(refused.content.decode())
    assert "It does not fit" in page
    assert "method.type: qlora" in page
    assert 'name="allow_unfit"' in page
    assert 'name="allow_unfit"' not in world["owner"].get(reverse("job-new")).content.decode()
    assert submit(world, allow_unfit="on", **{"runtime.dtype": "bfloat16"}).status_code == 302


def test_dpo_is_a_choice_with_fields_of_its_own(world: World) -> None:
    rows = [{"prompt": f"{number}?", "chosen": "yes", "rejected": "no"} for number in range(8)]
    make_dataset_version(world.team, "pairs", rows=rows)
    form = fill(world, dataset="pairs@1").context["form"]
    assert form["objective.type"].value() == "dpo"
    typed = {"objective.type": "dpo", "objective.beta": "0.2", "objective.loss": "ipo"}
    job = Job.objects.get(pk=submit(world, dataset="pairs@1", **typed)["Location"].split("/")[2])
    assert (job.spec["objective"]["beta"], job.spec["objective"]["loss"]) == (0.2, "ipo")
    assert "objective.type" in errors(submit(world, **typed))
