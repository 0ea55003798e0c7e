"""Plans over the hub's own devices: they need no worker's word, and finished jobs correct them."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.db.models.functions import Now

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import BaseModel
from finetune_hub.catalog.preview import token_statistics
from finetune_hub.jobs.models import Attempt, AttemptState, Job, MetricPoint
from finetune_hub.jobs.planning import compare_with_estimate, finished_runs, measured, plan_training
from finetune_hub.spec.refusal import Refusal
from tests.factories import (
    chat_row,
    make_attempt,
    make_base_model,
    make_dataset_version,
    make_job,
    make_spec,
    make_team,
    make_worker,
)
from tests.tiny_models import make_tokenizer

LLAMA_13B = {
    "parameter_count": 13_015_864_320,
    "layers": 40,
    "hidden_size": 5120,
    "heads": 40,
    "kv_heads": 40,
    "head_dim": 128,
    "intermediate_size": 13824,
    "vocabulary_size": 32000,
    "tied_head": False,
    "size_bytes": 26_031_728_640,
}


@pytest.fixture
def team(db: None) -> Team:
    team = make_team()
    make_dataset_version(team)
    return team


def finish(job: Job, *, peak_bytes: int, seconds: float = 0.5) -> Attempt:
    """A training that has ended well after four steps."""
    worker = make_worker()
    attempt = make_attempt(job, worker)
    Attempt.objects.filter(pk=attempt.pk).update(state=AttemptState.SUCCEEDED, finished_at=Now())
    MetricPoint.objects.bulk_create(
        MetricPoint(
            attempt=attempt,
            step=step,
            epoch=1.0,
            loss=1.0,
            learning_rate=1e-4,
            grad_norm=1.0,
            tokens=200,
            supervised_tokens=50,
            seconds=seconds,
            peak_memory_bytes=peak_bytes,
        )
        for step in range(1, 5)
    )
    Job.objects.filter(pk=job.pk).update(result={"dtype": "float32"})
    job.refresh_from_db()
    return attempt


def test_without_a_device_nothing_is_promised(team: Team) -> None:
    make_base_model(team)
    answer = plan_training(team, make_spec())
    assert (answer.fits, answer.devices) == (False, [])
    assert "finetune-hub up" in answer.sentence


def test_devices_of_one_kind_are_one_line(team: Team) -> None:
    make_base_model(team)
    make_worker(devices=3)
    answer = plan_training(team, make_spec())
    (device,) = answer.devices
    assert (answer.fits, device.count, device.verdict) == (True, 3, "fits")
    assert sum(device.parts.values()) == pytest.approx(device.peak_bytes, abs=8)
    assert device.gpu_hours
    assert device.alternatives == []


def test_rows_are_as_long_as_the_base_models_tokenizer_makes_them(team: Team, tmp_path: Path) -> None:
    make_tokenizer(tmp_path)
    base_model = make_base_model(team, folder=tmp_path)
    short, long = (make_dataset_version(team, f"d{n}", rows=[chat_row("hi", "ho " * n)] * 20) for n in (1, 50))
    both = measured([short, long], base_model)
    assert both.count == 40
    assert sorted(set(both.lengths)) == sorted(
        token_statistics(version, base_model, 1000).longest_tokens for version in (short, long)
    )
    assert 0 < measured([short], base_model).supervised_share < measured([long], base_model).supervised_share < 1
    assert "own tokenizer" in plan_training(team, make_spec()).assumptions[0]


def test_what_fits_nowhere_comes_with_what_would(team: Team) -> None:
    make_base_model(team, facts=LLAMA_13B)
    make_worker()
    answer = plan_training(team, make_spec(runtime={"dtype": "bfloat16"}))
    assert not answer.fits
    assert "weights alone take 26.0 GB" in answer.sentence
    assert any(option.changes.get("method.type") == "qlora" for option in answer.devices[0].alternatives)


def test_finished_jobs_correct_the_next_plan(team: Team) -> None:
    make_base_model(team)
    make_worker()
    before = plan_training(team, make_spec()).devices[0]
    for _ in range(3):
        finish(make_job(team), peak_bytes=2**30, seconds=4.0)
    assert len(finished_runs()) == 3
    after = plan_training(team, make_spec()).devices[0]
    assert after.peak_bytes > 1.5 * before.peak_bytes
    assert after.seconds_per_step
    assert before.seconds_per_step
    assert after.seconds_per_step > before.seconds_per_step
    assert "3 finished runs of lora on this device" in after.sureness[0]


def test_runs_that_failed_or_were_resumed_teach_nothing(team: Team) -> None:
    make_base_model(team)
    resumed, failed = (finish(make_job(team), peak_bytes=2**30) for _ in range(2))
    Attempt.objects.filter(pk=resumed.pk).update(resumed_from_step=2)
    Attempt.objects.filter(pk=failed.pk).update(state=AttemptState.FAILED)
    assert finished_runs() == []


def test_a_job_shows_its_estimate_beside_what_it_took(team: Team) -> None:
    make_base_model(team)
    job = make_job(team)
    assert compare_with_estimate(job) is None
    finish(job, peak_bytes=2**30)
    found = compare_with_estimate(job)
    assert found is not None
    assert (found.measured_bytes, found.measured_seconds) == (2**30, 0.5)
    assert 0.3e9 < found.estimated_bytes < 0.7e9


def test_a_model_of_which_nothing_is_known_is_refused(team: Team) -> None:
    model = make_base_model(team)
    BaseModel.objects.filter(pk=model.pk).update(facts={})
    with pytest.raises(Refusal) as refusal:
        plan_training(team, make_spec())
    assert refusal.value.code == "base_model_without_facts"
