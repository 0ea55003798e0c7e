"""`/metrics` as Prometheus reads it: the text goes through its own parser, and the numbers are those of the rows."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Role, Team, User
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import WAITS, AttemptState, JobState, Publication
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.operations.metrics import registry
from finetune_hub.operations.models import RoundName, record_round
from tests.dashboard.conftest import make_point
from tests.factories import make_adapter_version, make_attempt, make_job, make_member, make_team, make_user, make_worker

pytestmark = pytest.mark.django_db


@pytest.fixture
def team() -> Team:
    return make_team(make_user("alice"), slug="research", role=Role.ADMIN)


def scraped() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = generate_latest(registry(None)).decode()
    return {
        (sample.name.removeprefix("finetune_hub_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(name: str, **labels: str) -> float | None:
    return scraped().get((name, frozenset(labels.items())))


def test_an_empty_hub_has_metrics_too() -> None:
    assert value("queue_oldest_seconds") == 0


def test_the_queue_says_why(team: Team) -> None:
    make_job(team, created_at=timezone.now() - timedelta(minutes=10))
    make_job(team, not_before=Now() + timedelta(minutes=5))
    make_job(team, state=JobState.VALIDATING)
    make_job(team, after=make_job(team, state=JobState.PAUSED))
    assert value("queue_depth", reason="scheduler", kind="train") == 1
    schedule_pass()
    for reason in ("no_device", "back_off", "validating", "after_job", "paused"):
        assert value("queue_depth", reason=reason, kind="train") == 1
    assert value("queue_depth", reason="scheduler", kind="train") is None
    oldest = value("queue_oldest_seconds")
    assert oldest is not None
    assert 600 <= oldest < 660


def test_the_reason_is_the_verdict_of_placement(team: Team) -> None:
    placed = make_job(team, created_at=timezone.now() - timedelta(minutes=10))
    make_worker()
    schedule_pass()
    waiting = make_job(team)
    schedule_pass()
    waiting.refresh_from_db()
    assert value("queue_depth", reason="starting", kind="train") == 1
    assert value("queue_depth", reason=waiting.waiting_code, kind="train") == 1
    attempt = placed.attempts.get()
    assert worker_port.claim_attempt(attempt.pk, worker=attempt.worker)
    assert value("queue_depth", reason="starting", kind="train") is None
    assert value("jobs_running", kind="train") == 1


def test_the_guide_names_every_reason() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "placement.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE) == WAITS


def test_what_runs(team: Team) -> None:
    worker = make_worker("gpu-1", heartbeat_at=Now() - timedelta(seconds=7))
    attempt = make_attempt(
        make_job(team, state=JobState.RUNNING),
        worker,
        state=AttemptState.RUNNING,
        lease_token=uuid4(),
        lease_expires_at=Now() + timedelta(seconds=40),
        assigned_at=Now() - timedelta(seconds=50),
    )
    for step in range(1, 31):
        make_point(attempt, step)  # Half a second each.
    assert value("jobs_running", kind="train") == 1
    assert value("steps_per_second", worker="gpu-1") == 2
    age = value("lease_age_seconds", worker="gpu-1")
    assert age is not None
    assert 20 <= age < 30
    held = value("device_seconds_total", team="research", device_kind="cpu")
    assert held is not None
    assert 50 <= held < 60 or timezone.now().day == 1
    assert value("device_held", worker="gpu-1", device="cpu:0") == 1
    heartbeat = value("worker_heartbeat_age_seconds", worker="gpu-1", version="0.1.0")
    assert heartbeat is not None
    assert 7 <= heartbeat < 17
    assert value("worker_healthy", worker="gpu-1", health="healthy") == 1


def test_failures_by_class_and_publications(team: Team) -> None:
    now = timezone.now()
    for _ in range(2):
        make_attempt(make_job(team), state="failed", failure_class="out_of_memory", finished_at=now)
    make_attempt(make_job(team), state="lost", failure_class="worker_lost", finished_at=now - timedelta(days=62))
    job = make_job(team)
    attempt = make_attempt(
        job, state="succeeded", started_at=now, progress_at=now - timedelta(seconds=12), finished_at=now
    )
    Publication.objects.create(job=job, attempt=attempt, step=1, adapter_version=make_adapter_version(team))
    assert value("attempts_ended_total", state="failed", failure_class="out_of_memory") == 2
    assert value("attempts_ended_total", state="lost", failure_class="worker_lost") is None
    assert value("publication_seconds_bucket", le="5.0") == 0
    assert value("publication_seconds_bucket", le="15.0") == 1
    assert value("publication_seconds_bucket", le="+Inf") == value("publication_seconds_count") == 1
    assert value("publication_seconds_sum") == 12


def test_rounds_of_control() -> None:
    record_round(RoundName.RECONCILE)
    age = value("control_round_age_seconds", round="reconcile")
    assert age is not None
    assert age < 5


def test_questions_do_not_grow_with_the_hub(team: Team, django_assert_num_queries: Any) -> None:
    for _ in range(3):
        make_attempt(make_job(team, state=JobState.RUNNING), state=AttemptState.RUNNING, lease_token=uuid4())
    with django_assert_num_queries(9):
        generate_latest(registry(None))


# ---- who may


def scraper(user: User, team: Team, *scopes: str) -> Client:
    _, secret = create_token(user, team, name="prometheus", scopes=scopes)
    return Client(headers={"Authorization": f"Bearer {secret}"})


def test_a_token_with_the_scope_scrapes_and_opens_nothing_else(team: Team) -> None:
    client = scraper(team.memberships.get().user, team, "metrics")
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=")
    assert "finetune_hub_queue_depth" in answer.content.decode()
    assert client.get("/api/jobs").status_code == 403


def test_openmetrics_where_it_is_asked_for(team: Team) -> None:
    client = scraper(team.memberships.get().user, team, "metrics")
    accept = "application/openmetrics-text; version=1.0.0,text/plain;version=0.0.4;q=0.5"
    answer = client.get("/metrics", headers={"Accept": accept})
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    names = {family.name for family in parse_openmetrics(answer.content.decode())}
    assert "finetune_hub_device_seconds" in names


def test_nobody_else(team: Team) -> None:
    admin, member = team.memberships.get().user, make_member(team)
    assert Client().get("/metrics").status_code == 401
    assert scraper(admin, team, "read", "write", "admin").get("/metrics").status_code == 403
    once_admin = scraper(admin, team, "metrics")
    team.memberships.filter(user=admin).update(role=Role.MEMBER)
    assert once_admin.get("/metrics").status_code == 403
    assert scraper(member, team, "read").get("/metrics").status_code == 403
