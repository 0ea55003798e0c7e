"""Pausing, resuming, retrying and cloning over the API: what is asked, what comes of it, and who is named."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_hub.jobs.lifecycle import fail_job, lock_job
from finetune_hub.jobs.models import Checkpoint, Job
from finetune_hub.spec.problem import Failed
from tests.api.conftest import World
from tests.factories import make_dataset_version


def post(world: World, verb: str, body: dict[str, Any] | None = None, *, job: Job | None = None) -> Any:
    return world["teammate"].post(f"/api/jobs/{(job or world.job).pk}/{verb}", body, format="json")


def events(world: World) -> list[tuple[str, str | None]]:
    found = world["viewer"].get(f"/api/jobs/{world.job.pk}/events").json()["data"]
    return [(event["message"], event["actor"]) for event in found]


def test_a_reason_is_in_the_history_with_its_actor(world: World) -> None:
    assert post(world, "pause", {"reason": "The demo comes first."}).json()["state"] == "paused"
    assert post(world, "resume").json()["state"] == "queued"
    assert events(world) == [
        ("Paused. The demo comes first.", "bob"),
        ("Queued. Resumed. It will restart from the beginning.", "bob"),
    ]
    assert post(world, "pause", {"why": "?"}).json()["error"]["field"] == "why"
    assert post(world, "pause", {"reason": "x" * 501}).status_code == 422


def test_a_retry_offers_and_takes_checkpoints(world: World) -> None:
    for step in (2, 3):
        Checkpoint.objects.create(
            job=world.job, attempt=world.job.attempts.get(), step=step, artifact_prefix=f"c{step}", manifest=[]
        )
    refused = post(world, "retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_job_state")
    fail_job(lock_job(world.job.pk), Failed("diverged", "Step 3 has the loss nan.", "Lower it."))
    assert world["viewer"].get(f"/api/jobs/{world.job.pk}").json()["checkpoints"] == [3, 2]
    assert post(world, "retry", {"from_step": 4}).json()["error"]["field"] == "from_step"
    retried = post(world, "retry", {"from_step": 2}).json()
    assert (retried["state"], retried["failure"], retried["checkpoints"]) == ("validating", None, [2])


def test_a_priority_is_changed_and_refused(world: World) -> None:
    def patch(caller: str, priority: Any) -> Any:
        return world[caller].patch(f"/api/jobs/{world.job.pk}", {"priority": priority}, format="json")

    assert patch("teammate", -2).json()["priority"] == -2
    assert patch("owner", 7).json()["priority"] == 7
    refused = patch("teammate", 8)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "priority_not_allowed")
    assert patch("owner", 70).status_code == 422
    assert patch("owner", "high").json()["error"]["code"] == "invalid_request"


def test_a_job_is_submitted_after_another_and_behind_others(world: World) -> None:
    spec = {"base_model": "tiny", "dataset": {"name": "tickets"}}
    made = world["teammate"].post("/api/jobs", {**spec, "priority": -1, "after": world.job.pk}, format="json").json()
    assert (made["priority"], made["after"]) == (-1, world.job.pk)
    assert {"priority", "after"} & set(made["spec"]) == set()
    assert world["teammate"].post("/api/jobs", {**spec, "priority": 1}, format="json").status_code == 403
    unknown = world["owner"].post("/api/jobs", {**spec, "after": "ftjob-x"}, format="json").json()["error"]
    assert (unknown["code"], unknown["field"]) == ("unknown_job", "after")


# ---- clone


def test_a_clone_reads_the_same_rows_whatever_came_since(world: World) -> None:
    make_dataset_version(world.team, rows=[{"messages": [{"role": "assistant", "content": "newer"}]}])
    clone = post(world, "clone").json()
    assert clone["id"] != world.job.pk
    assert [(dataset["name"], dataset["version"]) for dataset in clone["datasets"]] == [("tickets", 1)]
    assert clone["created_by"] == "bob"
    [said] = Job.objects.get(pk=clone["id"]).events.all()
    assert said.message == f"Submitted, as a copy of {world.job.pk}."


def test_a_clone_differs_in_what_is_changed_alone(world: World) -> None:
    changes = {"training": {"epochs": 3, "seed": 1}, "adapter_name": "another"}
    clone, original = post(world, "clone", {"changes": changes}).json()["spec"], world.job.training_spec()
    assert (clone["training"]["epochs"], clone["training"]["seed"], clone["adapter_name"]) == (3, 1, "another")
    untouched = original.training.model_dump(exclude={"epochs", "seed"}, exclude_none=True)
    assert {key: clone["training"][key] for key in untouched} == untouched
    assert clone["method"] == original.method.model_dump(mode="json", exclude_none=True)


def test_a_clone_may_change_the_method(world: World) -> None:
    spec = post(world, "clone", {"changes": {"method": {"type": "prompt_tuning"}}}).json()["spec"]
    assert (spec["method"]["type"], spec["method"]["virtual_tokens"]) == ("prompt_tuning", 32)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"training": {"epoch": 3}}, "training.epoch"),
        ({"method": {"rank": 0}}, "method.rank"),
        ({"datasets": None}, "datasets"),
    ],
)
def test_a_bad_change_is_refused_with_its_place(world: World, changes: dict[str, Any], field: str) -> None:
    jobs = world.team.jobs.count()
    refused = post(world, "clone", {"changes": changes})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["field"]) == (422, "invalid_spec", field)
    assert world.team.jobs.count() == jobs


def test_what_is_no_training_is_not_cloned(world: World) -> None:
    body = {"adapter": world.version.adapter_id, "dataset": "tickets"}
    evaluation = world["owner"].post("/api/evaluations", body).json()
    refused = post(world, "clone", job=Job.objects.get(pk=evaluation["id"]))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "wrong_job_kind")
