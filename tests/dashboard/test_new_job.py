"""The new-job form: it is the TrainingSpec, with its errors beside their fields."""

from __future__ import annotations

import html
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.http import HttpResponse
from django.urls import reverse

from finetune_hub.catalog.models import BaseModel, BaseModelState
from finetune_hub.cli.recipes import read_recipe
from finetune_hub.cli.train import parse_spec
from finetune_hub.dashboard.training_form import LEARNING_RATE, PARTS, SPEC_FIELDS
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.spec.methods.registry import METHODS
from finetune_hub.spec.objectives.registry import OBJECTIVES
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingSpec
from tests.api.conftest import client_with
from tests.dashboard.conftest import World, signed_in
from tests.factories import make_base_model, make_dataset_version, make_job, make_team, make_user

FIELDS = {
    "dataset": "tickets@1",
    "base_model": "tiny",
    "adapter_name": "fresh",
    "form_token": "once",
    "method.type": "lora",
}
UNSHOWN = "objective.supervise"  # It has one value alone.


def submit(world: World, **fields: Any) -> HttpResponse:
    return world["owner"].post(reverse("job-new"), FIELDS | fields)


def errors(response: HttpResponse) -> dict[str, list[str]]:
    assert response.status_code == 422
    return dict(response.context["form"].errors)


def test_left_as_it_is_it_submits_the_defaults(world: World) -> None:
    response = submit(world)
    job = Job.objects.get(pk=response["Location"].split("/")[2])
    expected = TrainingSpec.model_validate(
        {"base_model": "tiny", "datasets": [{"name": "tickets", "version": 1}], "adapter_name": "fresh"}
    )
    assert job.training_spec() == expected
    assert (job.state, job.created_by, job.team) == (JobState.VALIDATING, world.alice, world.team)


def test_a_fresh_form_sent_as_a_browser_would_is_the_defaults_too(world: World) -> None:
    form = world["owner"].get(reverse("job-new")).context["form"]
    shown = {field.name: "" if field.value() is None else field.value() for field in form if field.name != "dataset"}
    shown.pop("allow_unfit")
    sent = Job.objects.get(pk=submit(world, **shown | FIELDS)["Location"].split("/")[2])
    left = Job.objects.get(pk=submit(world, form_token="another")["Location"].split("/")[2])
    assert sent.training_spec() == left.training_spec()


def test_the_form_shows_every_field_with_its_default_and_help(world: World) -> None:
    page = world["owner"].get(reverse("job-new"))
    form = page.context["form"]
    shown = {f"method.{name}" for model in METHODS.values() for name in model.model_fields}
    shown |= {f"objective.{name}" for model in OBJECTIVES.values() for name in model.model_fields} - {UNSHOWN}
    shown |= {f"{part}.{name}" for part, model in PARTS.items() for name in model.model_fields}
    assert shown == {name for name in form.fields if "." in name}
    for key, info, _ in SPEC_FIELDS:
        field, default = form.fields[key], info.get_default(call_default_factory=True, validated_data={})
        assert field.help_text == info.description
        if isinstance(default, bool):
            default = str(default).lower()
        elif isinstance(default, float):
            default = f"{default:g}"
        elif default == []:
            default = ""
        assert field.initial == (None if key == LEARNING_RATE else default)


def test_what_is_typed_reaches_the_spec(world: World) -> None:
    response = submit(
        world,
        **{"method.rank": "8", "training.learning_rate": "1e-3", "method.target_modules": "q_proj, v_proj"},
        **{"training.max_steps": "20", "training.schedule": "cosine", "runtime.dtype": "float32"},
    )
    spec = Job.objects.get(pk=response["Location"].split("/")[2]).training_spec()
    assert (spec.method.rank, spec.method.target_modules) == (8, ["q_proj", "v_proj"])
    assert (spec.training.learning_rate, spec.training.max_steps, spec.training.schedule) == (1e-3, 20, "cosine")
    assert spec.runtime.dtype == "float32"


WISHES = {
    "priority": "2",
    "runtime.max_duration": "4h",
    "runtime.device": "h100",
    "runtime.labels": "eu, fast",
    "runtime.gpus": "1",
}


def test_when_and_where_it_runs(world: World) -> None:
    response = submit(world, after=world.job.pk, **WISHES)
    job = Job.objects.get(pk=response["Location"].split("/")[2])
    assert (job.priority, job.after) == (2, world.job)
    runtime = job.training_spec().runtime
    assert (runtime.max_duration, runtime.device, runtime.labels) == ("4h", "h100", ["eu", "fast"])
    page = html.unescape(world["viewer"].get(reverse("job", args=[job.pk])).content.decode())
    line = page.split('id="line-title"')[1].split("</section>")[0]
    for said in ("4h", "h100", "eu, fast", f"/jobs/{world.job.pk}/"):
        assert said in line


def test_wishes_are_kept_when_the_page_comes_back_and_told_to_programs(world: World) -> None:
    fields = WISHES | {"after": world.job.pk}
    filled = submit(world, fill="1", preset="best-quality", **fields).context["form"]
    assert {name: str(filled[name].value()) for name in fields} == fields
    page = html.unescape(submit(world, show_recipe="1", **fields).content.decode())
    assert f"finetune-hub jobs submit recipe.yaml --priority 2 --after {world.job.pk}" in page
    curl = shlex.split(page.split('id="recipe-curl" tabindex="0">')[1].split("</pre>")[0].replace("\\\n", ""))
    sent = json.loads(curl[-1])
    assert (sent["priority"], sent["after"], sent["runtime"]["device"]) == (2, world.job.pk, "h100")


def test_a_place_in_line_that_is_refused_lies_beside_its_field(world: World) -> None:
    assert "priority" in errors(world["teammate"].post(reverse("job-new"), FIELDS | {"priority": "1"}))
    assert "priority" in errors(submit(world, priority="11"))
    assert "priority" in errors(submit(world, priority="high"))
    foreign = make_job(make_team(make_user()))
    assert "after" in errors(submit(world, after=foreign.pk))
    page = world["owner"].get(reverse("job-new")).content.decode()
    assert (world.job.pk in page, foreign.pk in page) == (True, False)
    assert Job.objects.count() == 2


def test_another_place_in_line_is_another_job(world: World) -> None:
    assert submit(world)["Location"] != submit(world, priority="-1")["Location"]


@pytest.mark.parametrize(
    ("typed", "method"),
    [
        ({"type": "qlora", "quantization": "int8", "rank": "8"}, {"quantization": "int8", "rank": 8}),
        ({"type": "qlora", "double_quantization": "false", "virtual_tokens": "9"}, {"double_quantization": False}),
        ({"type": "prompt_tuning", "virtual_tokens": "8", "rank": "many"}, {"virtual_tokens": 8}),
        (
            {"type": "prefix_tuning", "init": "text", "init_text": "Answer in JSON."},
            {"init": "text", "init_text": "Answer in JSON."},
        ),
        ({"type": "lora", "target_modules": r".*\.[qv]_proj"}, {"target_modules": r".*\.[qv]_proj"}),
        ({"type": "lora", "exclude_modules": "lm_head"}, {"exclude_modules": ["lm_head"]}),
        ({"type": "lora", "rank_pattern": "{q_proj: 4, v_proj: 8}"}, {"rank_pattern": {"q_proj": 4, "v_proj": 8}}),
    ],
)
def test_a_method_takes_its_own_fields_and_no_others(
    world: World, typed: dict[str, str], method: dict[str, Any]
) -> None:
    response = submit(world, **{f"method.{name}": value for name, value in typed.items()})
    job = Job.objects.get(pk=response["Location"].split("/")[2])
    expected = METHODS[typed["type"]].model_validate({"type": typed["type"], **method})
    assert job.training_spec().method == expected
    assert job.training_spec().training.learning_rate == expected.default_learning_rate
    again = world["owner"].get(reverse("job-new"), {"like": job.pk}).context["form"]
    assert again["method.type"].value() == typed["type"]
    for name in method:
        assert str(again[f"method.{name}"].value()) == typed[name]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method.rank", "0"),
        ("method.rank", "many"),
        ("method.rank_pattern", "{q_proj: 0"),
        ("method.type", "full"),
        ("training.learning_rate", "2"),
        ("training.epochs", "-1"),
        ("adapter_name", "No Spaces"),
        ("training.schedule", "zigzag"),
        ("dataset", "unknown@1"),
        ("base_model", "unknown"),
    ],
)
def test_an_error_lies_beside_its_field(world: World, field: str, value: str) -> None:
    assert field in errors(submit(world, **{field: value}))
    assert Job.objects.count() == 1


@pytest.mark.parametrize(("part", "name", "value"), [("training", "epochs", "-1"), ("training", "seed", "many")])
def test_a_defect_is_told_alike_by_page_api_and_terminal(
    world: World, tmp_path: Path, part: str, name: str, value: str
) -> None:
    [shown] = errors(submit(world, **{f"{part}.{name}": value}))[f"{part}.{name}"]
    document = {"base_model": "tiny", "datasets": [{"name": "tickets"}], part: {name: value}}
    told = client_with(world.alice, world.team).post("/api/jobs", document, format="json").json()["error"]
    [defect] = told["details"]
    assert shown.lower() == f"{defect['message']}. {defect['remedy']}".lower()
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(Refusal) as refused:
        parse_spec(read_recipe(tmp_path / "recipe.yaml"))
    assert refused.value.message == f"{tmp_path}/recipe.yaml, line 5: {told['message']}"
    assert (refused.value.remedy, refused.value.field) == (told["remedy"], told["field"])
    assert refused.value.details == [defect | {"line": 5}]


def test_fields_that_exclude_each_other_are_told_at_the_head(world: World) -> None:
    fields = {"method.type": "qlora", "runtime.gpus": "2", "runtime.shard_base_model": "true"}
    (message,) = errors(submit(world, **fields))["__all__"]
    assert message.startswith("`runtime.shard_base_model` cannot shard a quantised base model: set it to false")


def test_an_error_in_the_fold_opens_it(world: World) -> None:
    assert "<details open>" in submit(world, **{"training.seed": "-1"}).content.decode()
    assert "<details open>" not in submit(world, **{"method.rank": "0"}).content.decode()


def test_what_the_action_refuses_lies_beside_its_field(world: World) -> None:
    """The base model was ready when the page was made, and is not when it is sent."""
    BaseModel.objects.filter(name="tiny").update(state=BaseModelState.FAILED)
    assert "base_model" in errors(submit(world))


def test_sent_twice_it_is_one_job_and_changed_it_is_another(world: World) -> None:
    first, again = submit(world), submit(world)
    assert first["Location"] == again["Location"]
    assert submit(world, **{"method.rank": "8"})["Location"] != first["Location"]


def test_the_same_job_as_yaml_and_as_curl(world: World) -> None:
    response = submit(world, show_recipe="1", **{"method.rank": "8"})
    assert response.status_code == 200
    assert Job.objects.count() == 1
    page = html.unescape(response.content.decode())
    recipe = yaml.safe_load(page.split('id="recipe-yaml" tabindex="0">')[1].split("</pre>")[0])
    assert TrainingSpec.model_validate(recipe) == response.context["form"].spec
    curl = shlex.split(page.split('id="recipe-curl" tabindex="0">')[1].split("</pre>")[0].replace("\\\n", ""))
    assert curl[:2] == ["curl", "http://testserver/api/jobs"]
    assert json.loads(curl[-1]) == recipe


def test_a_recipe_needs_a_sound_form(world: World) -> None:
    page = submit(world, show_recipe="1", **{"method.rank": "0"}).content.decode()
    assert "Fix the marked fields" in page
    assert "recipe-yaml" not in page


@pytest.mark.parametrize(
    ("typed", "answers"),
    [
        ({}, {"PEFT": "yes", "vLLM": "yes", "llama.cpp": "export", "LoRAX": "yes"}),
        ({"method.use_dora": "true"}, {"PEFT": "yes", "vLLM": "no", "llama.cpp": "no", "LoRAX": "no"}),
        (
            {"method.rank_pattern": "{q_proj: 4}"},
            {"PEFT": "yes", "vLLM": "export", "llama.cpp": "export", "LoRAX": "export"},
        ),
        ({"method.type": "prompt_tuning"}, {"PEFT": "yes", "vLLM": "no", "llama.cpp": "no", "LoRAX": "no"}),
        ({"base_model": "phi"}, {"PEFT": "yes", "vLLM": "yes", "llama.cpp": "no", "LoRAX": "yes"}),
        ({"adapter_name": "No Spaces"}, {"PEFT": "yes", "vLLM": "yes", "llama.cpp": "export", "LoRAX": "yes"}),
        ({"method.rank": "many"}, {}),
    ],
)
def test_what_is_filled_in_tells_which_programs_can_serve_it(
    world: World, typed: dict[str, str], answers: dict[str, str]
) -> None:
    make_base_model(world.team, "phi", facts={"model_type": "phi3"})
    response = submit(world, show_recipe="1", **typed)
    assert {found.program: found.answer for found in response.context["form"].compatibility()} == answers
    page = response.content.decode()
    assert all(f"program-{answer}" in page for answer in answers.values())
    assert ("Fix the method" in page) == (not answers)


def test_a_fresh_form_tells_what_its_defaults_can_be_served_by(world: World) -> None:
    spec = world.job.spec | {"method": {"type": "lora", "use_dora": True}}
    Job.objects.filter(pk=world.job.pk).update(spec=spec)
    for query, answer in (({}, "export"), ({"like": world.job.pk}, "no")):
        form = world["owner"].get(reverse("job-new"), query).context["form"]
        assert {found.program: found.answer for found in form.compatibility()}["llama.cpp"] == answer


def test_a_job_like_another(world: World) -> None:
    spec = world.job.spec | {"method": {"type": "lora", "rank": 4}}
    Job.objects.filter(pk=world.job.pk).update(spec=spec)
    form = world["owner"].get(reverse("job-new"), {"like": world.job.pk}).context["form"]
    assert form["method.rank"].value() == 4
    foreign = world["outsider"].get(reverse("job-new"), {"like": world.job.pk}).context["form"]
    assert foreign["method.rank"].value() == 16


def test_a_dataset_of_another_team_is_no_choice(world: World) -> None:
    make_dataset_version(make_team(make_user()), "secret")
    assert "secret" not in world["owner"].get(reverse("job-new")).content.decode()
    assert "dataset" in errors(submit(world, dataset="secret@1"))


def test_without_a_base_model_the_page_leads_to_one(db: None) -> None:
    user = make_user()
    make_team(user)
    page = signed_in(user).get(reverse("job-new")).content.decode()
    assert reverse("base-models") in page
    assert "finetune-hub base-models import" in page
