"""Every address × everybody: members see, viewers change nothing, outsiders find nothing, strangers sign in first."""

from __future__ import annotations

import pytest
from django.urls import URLPattern, reverse

from finetune_hub.dashboard.middleware import CONTENT_SECURITY_POLICY
from finetune_hub.dashboard.urls import urlpatterns
from finetune_hub.jobs.models import DesiredState
from tests.dashboard.conftest import CALLERS, World

OPEN_TO_STRANGERS = {"login", "login-link", "logout"}
LISTS = {"home", "jobs", "datasets", "base-models", "adapters", "workers"}
FORMS = {"job-new", "dataset-upload"}
DEEDS = {"job-cancel", "base-model-import"}
STAFF_DEEDS = {"worker-cordon", "worker-uncordon"}
OF_THE_TEAM = {
    "job",
    "job-stream",
    "job-metrics",
    "dataset",
    "dataset-version",
    "adapter",
    "adapter-version",
    "adapter-file",
    "adapter-zip",
}


def address(world: World, name: str) -> str:
    dataset = world.job.job_datasets.get().dataset_version.dataset_id
    adapter = world.version.adapter_id
    arguments = {
        "job": [world.job.pk],
        "job-stream": [world.job.pk],
        "job-metrics": [world.job.pk],
        "job-cancel": [world.job.pk],
        "dataset": [dataset],
        "dataset-version": [dataset, 1],
        "adapter": [adapter],
        "adapter-version": [adapter, 1],
        "adapter-file": [adapter, 1, "adapter_config.json"],
        "adapter-zip": [adapter, 1],
        "worker-cordon": [world.worker.name],
        "worker-uncordon": [world.worker.name],
    }
    return reverse(name, args=arguments.get(name, []))


def test_the_matrix_names_every_address() -> None:
    named = OPEN_TO_STRANGERS | LISTS | FORMS | DEEDS | STAFF_DEEDS | OF_THE_TEAM
    assert {pattern.name for pattern in urlpatterns if isinstance(pattern, URLPattern)} == named


@pytest.mark.parametrize("name", sorted(LISTS | FORMS | (OF_THE_TEAM - {"job-stream"})))
def test_reading(world: World, name: str) -> None:
    for caller in CALLERS:
        response = world[caller].get(address(world, name))
        if response.streaming:
            list(response.streaming_content)  # To its end, where the file is closed.
        assert response.status_code == expected_status(name, caller), caller
        assert response["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
        if caller == "anonymous":
            assert response["Location"].startswith(reverse("login"))


def expected_status(name: str, caller: str) -> int:
    if caller == "anonymous":
        return 302
    if name in FORMS and caller == "viewer":
        return 403
    if name in OF_THE_TEAM and caller == "outsider":
        return 404
    return 200


@pytest.mark.parametrize("name", sorted(LISTS))
def test_an_outsider_finds_no_name_of_the_team(world: World, name: str) -> None:
    page = world["outsider"].get(address(world, name)).content.decode()
    for word in ("tickets-tiny", world.team.name, world.job.pk):
        assert word not in page


@pytest.mark.parametrize(
    ("caller", "status"), [("teammate", 302), ("viewer", 403), ("outsider", 404), ("anonymous", 302)]
)
def test_cancelling(world: World, caller: str, status: int) -> None:
    response = world[caller].post(address(world, "job-cancel"))
    world.job.refresh_from_db()
    assert response.status_code == status
    assert world.job.desired_state == (DesiredState.CANCEL if caller == "teammate" else DesiredState.RUN)


@pytest.mark.parametrize("name", ["job-new", "dataset-upload", "base-model-import"])
def test_a_viewer_may_not_submit(world: World, name: str) -> None:
    assert world["viewer"].post(address(world, name), {"name": "x"}).status_code == 403


def test_a_viewer_sees_no_buttons(world: World) -> None:
    for name in ("jobs", "datasets", "job", "dataset"):
        page = world["viewer"].get(address(world, name)).content.decode()
        for path in (reverse("job-new"), reverse("dataset-upload"), address(world, "job-cancel")):
            assert path not in page
            assert path in "".join(
                world["owner"].get(address(world, each)).content.decode() for each in ("jobs", "datasets", "job")
            )


@pytest.mark.parametrize(("caller", "status"), [("owner", 302), ("teammate", 403), ("anonymous", 302)])
def test_only_staff_cordons(world: World, caller: str, status: int) -> None:
    assert world[caller].post(address(world, "worker-cordon")).status_code == status
    world.worker.refresh_from_db()
    assert world.worker.cordoned == (caller == "owner")


def test_staff_uncordons(world: World) -> None:
    world["owner"].post(address(world, "worker-cordon"))
    world["owner"].post(address(world, "worker-uncordon"))
    world.worker.refresh_from_db()
    assert not world.worker.cordoned


def test_an_outsider_sees_that_a_worker_is_busy_but_not_with_what(world: World) -> None:
    page = world["outsider"].get(reverse("workers")).content.decode()
    assert "A job of another team" in page
    assert world.worker.name in page


@pytest.mark.parametrize("name", ["job-cancel", "worker-cordon", "base-model-import", "logout"])
def test_a_get_changes_nothing(world: World, name: str) -> None:
    assert world["owner"].get(address(world, name)).status_code == 405


def test_forms_need_their_token(world: World) -> None:
    world["owner"].handler.enforce_csrf_checks = True
    response = world["owner"].post(address(world, "job-cancel"))
    assert response.status_code == 403
    assert "Nothing was changed" in response.content.decode()
