"""What the pages say about jobs, base models, adapters and workers; and what they ask the database."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from finetune_hub.accounts.actions import create_token
from finetune_hub.catalog.models import BaseModel, BaseModelState
from finetune_hub.fleet.models import Worker
from finetune_hub.jobs.lifecycle import EventDraft, add_events
from finetune_hub.jobs.models import AttemptState, Checkpoint, Job, JobState, Publication
from finetune_hub.spec.known_models import KNOWN_MODELS
from tests.dashboard.conftest import World, make_point
from tests.dashboard.test_who_sees_what import FORMS, LISTS, OF_THE_TEAM, address
from tests.factories import (
    chat_row,
    make_adapter_version,
    make_attempt,
    make_base_model,
    make_dataset_version,
    make_job,
    make_member,
    make_worker,
)


def page_of(world: World, name: str, *args: object) -> str:
    response = world["viewer"].get(reverse(name, args=args))
    assert response.status_code == 200
    return " ".join(response.content.decode().split())


def test_a_queued_job_says_why_it_waits(world: World) -> None:
    job = make_job(world.team, waiting_reason="Every device is in use.")
    assert "Every device is in use." in page_of(world, "job", job.pk)
    assert "Every device is in use." in page_of(world, "jobs")


def test_home_tells_what_runs_waits_failed_and_what_is_new(world: World) -> None:
    make_job(world.team, waiting_reason="Every device is in use.")
    failure = {
        "failure_class": "bad_data",
        "failure_message": "Row 17: no assistant turn.",
        "failure_remedy": "Fix it.",
    }
    make_job(world.team, state=JobState.FAILED, finished_at=timezone.now(), **failure)
    old = {**failure, "failure_message": "Long ago."}
    make_job(world.team, state=JobState.FAILED, finished_at=timezone.now() - timedelta(days=8), **old)
    page = page_of(world, "home")
    for text in (
        reverse("job", args=[world.job.pk]),
        "Every device is in use.",
        "Row 17: no assistant turn.",
        "Fix it.",
    ):
        assert text in page
    assert "Long ago." not in page
    assert reverse("adapter-zip", args=[world.version.adapter_id, 1]) in page


def test_home_of_a_new_team_says_where_to_begin(world: World) -> None:
    page = world["outsider"].get(reverse("home")).content.decode()
    assert reverse("dataset-upload") in page


def test_a_running_job_shows_progress_attempt_log_and_spec(world: World) -> None:
    Job.objects.filter(pk=world.job.pk).update(eta_seconds=200)
    page = page_of(world, "job", world.job.pk)
    for text in ("2 of 10 steps · 3 min 20 s left", "the last words", "Attempt 1</b> on gpu-1", "A processor, 2 cores"):
        assert text in page
    assert "base_model: tiny" in page
    assert f"/jobs/{world.job.pk}/stream?after=1-0-0" in page


def test_a_failed_job_says_what_to_do(world: World) -> None:
    job = make_job(
        world.team,
        state=JobState.FAILED,
        finished_at=timezone.now(),
        failure_class="out_of_memory",
        failure_message="The GPU ran out of memory.",
        failure_remedy="Halve `training.micro_batch_size`.",
    )
    page = page_of(world, "job", job.pk)
    assert "out_of_memory" in page
    assert "Halve <code>training.micro_batch_size</code>." in page
    assert "sse-connect" not in page


def test_a_page_offers_what_can_be_done(world: World) -> None:
    verbs = ("pause", "resume", "cancel", "retry", "priority")

    def offered(job: Job) -> set[str]:
        page = world["owner"].get(reverse("job", args=[job.pk])).content.decode()
        return {verb for verb in verbs if f'action="{reverse(f"job-{verb}", args=[job.pk])}"' in page}

    assert offered(world.job) == {"pause", "cancel", "priority"}
    paused = make_job(world.team, state=JobState.PAUSED, desired_state="pause")
    assert offered(paused) == {"resume", "cancel", "priority"}
    assert "It is paused. Resume it to continue" in page_of(world, "job", paused.pk)
    failed = make_job(world.team, state=JobState.FAILED, finished_at=timezone.now(), failure_class="internal")
    assert offered(failed) == {"retry"}
    done = make_job(world.team, state=JobState.SUCCEEDED, finished_at=timezone.now())
    assert offered(done) == set()
    assert f"{reverse('job-new')}?like={done.pk}" in world["owner"].get(f"/jobs/{done.pk}/").content.decode()


def test_a_job_that_follows_another_leads_to_it(world: World) -> None:
    follower = make_job(world.team, after=world.job)
    assert f'<a href="{reverse("job", args=[world.job.pk])}">' in page_of(world, "job", follower.pk)


def test_checkpoints_are_offered_to_a_retry(world: World) -> None:
    Job.objects.filter(pk=world.job.pk).update(state=JobState.CANCELLED, finished_at=timezone.now())
    for step in (20, 40):
        Checkpoint.objects.create(
            job=world.job, attempt=world.attempt, step=step, artifact_prefix=f"c{step}", manifest=[]
        )
    page = world["owner"].get(reverse("job", args=[world.job.pk])).content.decode()
    assert page.index('value="40"') < page.index('value="20"') < page.index('value="0"')
    world["owner"].post(reverse("job-retry", args=[world.job.pk]), {"from_step": "20"})
    assert [checkpoint.step for checkpoint in world.job.checkpoints.all()] == [20]


def test_a_refused_deed_says_why(world: World) -> None:
    response = world["owner"].post(reverse("job-retry", args=[world.job.pk]))
    assert response.status_code == 409
    assert "only failed and cancelled jobs can be retried" in response.content.decode()


def test_a_succeeded_job_leads_to_its_adapter(world: World) -> None:
    job = make_job(world.team, state=JobState.SUCCEEDED, finished_at=timezone.now(), result={"steps": 50})
    Publication.objects.create(job=job, attempt=world.attempt, step=50, adapter_version=world.version)
    path = reverse("adapter-version", args=[world.version.adapter_id, 1])
    assert path in page_of(world, "job", job.pk)
    assert reverse("job", args=[job.pk]) in page_of(world, "adapter", world.version.adapter_id)


def test_an_evaluation_shows_base_against_adapter(world: World) -> None:
    sample = {"prompt": "2 + 2?", "expected": "4", "base": "five", "adapter": "4"}
    result = {"rows": 40, "base_exact_match": 0.025, "adapter_exact_match": 1.0, "samples": [sample]}
    job = make_job(
        world.team,
        kind="evaluate",
        spec={"max_rows": None},
        adapter_version=world.version,
        state=JobState.SUCCEEDED,
        finished_at=timezone.now(),
        result=result,
    )
    page = page_of(world, "job", job.pk)
    for text in ("2.5%", "100%", "40 held-out rows", "five"):
        assert text in page


def test_the_curve_is_the_newest_attempts_and_has_no_word_for_nan(world: World) -> None:
    world.attempt.__class__.objects.filter(pk=world.attempt.pk).update(state="lost", finished_at=timezone.now())
    again = make_attempt(world.job, world.worker, state="lost", finished_at=timezone.now())
    make_point(again, 2, loss=0.5)
    make_point(again, 3, loss=float("nan"))
    url = reverse("job-metrics", args=[world.job.pk])
    points = world["viewer"].get(url).json()["points"]
    assert [(point["step"], point["attempt"], point["loss"]) for point in points] == [
        (1, 1, 2.0),
        (2, 2, 0.5),
        (3, 2, None),
    ]
    assert [point["step"] for point in world["viewer"].get(url, {"after": "2"}).json()["points"]] == [3]


def test_the_curve_and_the_numbers_of_pairs_have_rewards(world: World) -> None:
    page = reverse("job", args=[world.job.pk])
    assert "Reward margin" not in world["viewer"].get(page).content.decode()
    make_point(world.attempt, 3, reward_margin=1.25, reward_accuracy=0.875)
    *_, point = world["viewer"].get(reverse("job-metrics", args=[world.job.pk])).json()["points"]
    assert (point["reward_margin"], point["reward_accuracy"]) == (1.25, 0.875)
    shown = world["viewer"].get(page).content.decode()
    assert "<dt>Reward margin</dt><dd>1.250</dd>" in shown
    assert "<dt>Pairs ranked correctly</dt><dd>87.5%</dd>" in shown


def test_a_long_curve_is_thinned_and_keeps_its_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune_hub.dashboard.curve.MAX_POINTS", 4)
    for step in range(3, 12):
        make_point(world.attempt, step)
    Job.objects.filter(pk=world.job.pk).update(step=11)
    points = world["viewer"].get(reverse("job-metrics", args=[world.job.pk])).json()["points"]
    assert [point["step"] for point in points] == [3, 6, 9, 11]


def test_base_models_offer_what_is_not_there_yet(world: World) -> None:
    known = next(iter(KNOWN_MODELS))
    path = reverse("base-model-import")
    assert known in world["owner"].get(reverse("base-models")).content.decode()
    response = world["owner"].post(path, {"name": known})
    job = Job.objects.get(kind="import")
    assert response["Location"] == reverse("job", args=[job.pk])
    assert job.base_model.state == BaseModelState.IMPORTING
    assert job.base_model.license == KNOWN_MODELS[known].license
    assert world["owner"].post(path, {"name": known}).status_code == 422


def test_a_folder_outside_is_refused_beside_its_field(world: World) -> None:
    data = {"name": "mine", "source": "folder:../secrets", "license": ""}
    response = world["owner"].post(reverse("base-model-import"), data)
    assert "is outside of the import folder" in response.context["form"].errors["source"][0]
    assert not BaseModel.objects.filter(name="mine").exists()


def test_an_adapter_tells_files_origins_and_verification(world: World) -> None:
    page = page_of(world, "adapter", world.version.adapter_id)
    for file in world.version.files.all():
        assert file.path in page
        assert file.sha256 in page
    for text in ("tickets v1", "PeftModel.from_pretrained", "differ from the trainer’s by at most", "tickets-tiny-v1"):
        assert text in page


def test_an_adapter_tells_what_can_serve_it(world: World) -> None:
    page = page_of(world, "adapter", world.version.adapter_id)
    assert "--max-lora-rank 16" in page
    assert "export --format gguf-adapter" in page


def test_an_adapter_that_changes_nothing_is_marked(world: World) -> None:
    verification = world.version.verification | {"warnings": ["It changes no logit of the probe."]}
    version = make_adapter_version(world.team, "idle", verification=verification)
    assert "It changes no logit of the probe." in page_of(world, "adapter", version.adapter_id)


def test_a_silent_worker_is_called_unhealthy_and_why(world: World) -> None:
    Worker.objects.filter(pk=world.worker.pk).update(canary_at=timezone.now() - timedelta(minutes=5))
    page = page_of(world, "workers")
    assert "unhealthy" in page
    assert "has consumed no canary task" in page


@pytest.mark.parametrize("name", sorted(LISTS | FORMS | (OF_THE_TEAM - {"job-stream"})))
def test_a_page_asks_the_same_number_of_questions_for_few_and_for_many(world: World, name: str) -> None:
    url = address(world, name)

    def questions() -> int:
        with CaptureQueriesContext(connection) as queries:
            response = world["owner"].get(url)
            if response.streaming:
                list(response.streaming_content)
        assert response.status_code == 200
        return len(queries)

    few = questions()
    rows = [chat_row(f"question {number}") for number in range(20)]
    for number in range(4):
        make_dataset_version(world.team, f"more-{number}")
        make_dataset_version(world.team, "tickets", rows[: number + 1])
        make_adapter_version(world.team, f"more-{number}")
        again = make_adapter_version(world.team)
        make_base_model(world.team, f"more-{number}")
        make_attempt(make_job(world.team), make_worker())
        make_member(world.team)
        create_token(world.alice, world.team, name=f"more-{number}")
        make_attempt(world.job, make_worker(), state=AttemptState.LOST, finished_at=timezone.now())
        make_job(world.team, kind="evaluate", adapter_version=again)
        make_job(world.team, kind="evaluate", adapter_version=world.version)
        make_point(world.attempt, 3 + number)
        add_events(world.job, [EventDraft(f"Event {number}.")], actor=world.alice)
    assert questions() == few <= 16


def test_jobs_come_in_pages_of_fifty(world: World) -> None:
    version = make_dataset_version(world.team)
    for _ in range(50):
        make_job(world.team, dataset_version=version)
    first, second = (world["viewer"].get(reverse("jobs"), {"page": number}).context["page"] for number in (1, 2))
    assert (len(first), len(second)) == (50, 1)
    assert list(second) == [world.job]


def test_the_list_of_jobs_narrows_to_a_state(world: World) -> None:
    waiting = make_job(world.team)
    for show, found in (
        ("waiting", [waiting]),
        ("running", [world.job]),
        ("failed", []),
        ("zigzag", [waiting, world.job]),
    ):
        assert list(world["viewer"].get(reverse("jobs"), {"show": show}).context["page"]) == found
    assert "There are no failed jobs." in world["viewer"].get(reverse("jobs"), {"show": "failed"}).content.decode()


def test_an_adapter_shows_its_model_card(world: World) -> None:
    version = make_adapter_version(world.team, "carded", model_card="# carded\n<b>by hand</b>")
    page = world["viewer"].get(reverse("adapter", args=[version.adapter_id])).content.decode()
    assert "<h3>carded</h3>\n<p>&lt;b&gt;by hand&lt;/b&gt;</p>" in page
    assert "# carded\n&lt;b&gt;by hand&lt;/b&gt;" in page  # As in the file.
    assert "finetune-hub adapters pull carded:1" in page


def test_a_page_that_is_not_there(world: World) -> None:
    response = world["owner"].get("/no/such/page")
    assert response.status_code == 404
    assert "Page not found." in response.content.decode()


@pytest.mark.parametrize("name", ["home", "jobs", "job-new", "dataset-preview", "dataset-rows", "adapter-file"])
def test_an_address_with_a_nul_is_refused(world: World, name: str) -> None:
    page = address(world, name)
    for query in ("base_model=%00", "q=a%00b", "%00", "like=%00", "dataset=%00&show=%00"):
        assert world["owner"].get(f"{page}?{query}").status_code == 400
    assert world["owner"].get(f"{page}%00", follow=True).status_code == 404


def test_a_broken_page_is_still_a_page(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("finetune_hub.dashboard.views.jobs.page_of", broken)
    world["owner"].raise_request_exception = False
    response = world["owner"].get(reverse("jobs"))
    assert response.status_code == 500
    assert "Something went wrong on our side." in response.content.decode()
