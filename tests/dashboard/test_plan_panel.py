"""The plan panel of the new-job form: the verdict, the bar, and alternatives that the form understands."""

from __future__ import annotations

import html
import json
import re
from typing import Any

from django.urls import reverse

from finetune_hub.catalog.models import BaseModel
from tests.dashboard.conftest import World
from tests.jobs.test_planning import LLAMA_13B

FIELDS = {"dataset": "tickets@1", "base_model": "tiny", "form_token": "once", "method.type": "lora"}


def panel(world: World, **fields: Any) -> str:
    response = world["owner"].post(reverse("job-plan"), FIELDS | fields)
    assert response.status_code == 200
    return html.unescape(response.content.decode())


def test_what_fits_is_drawn_by_part(world: World) -> None:
    page = panel(world)
    assert "It fits A processor, 2 cores" in page
    widths = [float(width) for width in re.findall(r'class="part-\w+" x="[\d.]+" width="([\d.]+)"', page)]
    assert widths
    assert sum(widths) < 1000
    assert "formulas alone" in page


def test_what_does_not_fit_offers_changes_that_the_form_can_take(world: World) -> None:
    model = BaseModel.objects.get(name="tiny")
    BaseModel.objects.filter(pk=model.pk).update(facts=model.facts | LLAMA_13B)
    page = panel(world, **{"runtime.dtype": "bfloat16"})
    assert "It does not fit" in page
    changes = [json.loads(change) for change in re.findall(r'data-fill="(\{.*?\})"', page, re.DOTALL)]
    assert changes
    fields = world["owner"].get(reverse("job-new")).context["form"].fields
    assert all(change.keys() <= fields.keys() for change in changes)
    assert any("It fits" in panel(world, **{"runtime.dtype": "bfloat16"} | change) for change in changes)


def test_a_form_with_errors_plans_nothing(world: World) -> None:
    assert "Fix the marked fields" in panel(world, **{"training.epochs": "0"})


def test_a_refusal_is_shown_in_words(world: World) -> None:
    BaseModel.objects.filter(name="tiny").update(facts={})
    assert "Import it again" in panel(world)


def test_a_viewer_plans_nothing(world: World) -> None:
    assert world["viewer"].post(reverse("job-plan"), FIELDS).status_code == 403


def test_a_jobs_page_shows_its_estimate_beside_what_it_took(world: World) -> None:
    page = world["owner"].get(reverse("job", args=[world.job.pk])).content.decode()
    assert "Estimated and measured" in page
    assert "1.1 GB measured" in page
