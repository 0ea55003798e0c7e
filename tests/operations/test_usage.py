"""Accounting against numbers computed by hand: nothing twice, nothing lost at the turn of a month."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_hub.accounts.models import Team
from finetune_hub.fleet.models import DeviceKind, Worker
from finetune_hub.jobs.models import AttemptState, DeviceUse, Job
from finetune_hub.jobs.team_use import uses_of_teams
from finetune_hub.operations.usage import Month, UsageLine, usage_of
from finetune_hub.spec.refusal import Refusal
from tests.dashboard.conftest import signed_in
from tests.factories import make_attempt, make_job, make_team, make_user, make_worker

pytestmark = pytest.mark.django_db

NOVEMBER = Month.parse("2026-11")
FIRST = datetime(2026, 11, 1, tzinfo=UTC)


def make_gpus(count: int) -> Worker:
    worker = make_worker(devices=0)
    for index in range(count):
        worker.devices.create(index=index, kind=DeviceKind.CUDA, name="NVIDIA H100", memory_bytes=80 * 2**30)
    return worker


def hold(job: Job, worker: Worker, start: datetime, end: datetime | None, *, devices: int = 1) -> None:
    """An attempt that held the worker's first devices; until now when it has no end."""
    attempt = make_attempt(
        job,
        worker,
        state=AttemptState.LOST,
        assigned_at=start,
        finished_at=end or timezone.now(),
    )
    for device in worker.devices.all()[:devices]:
        DeviceUse.objects.create(attempt=attempt, device=device, released_at=end)


@pytest.fixture
def team() -> Team:
    return make_team(make_user("alice"), slug="research")


def test_by_hand(team: Team) -> None:
    """alice: 2 GPUs × 1 h, and 10 min of a retry.  bob: half an hour of a processor, after a wait of 40 min."""
    bob = make_user("bob")
    gpus, desk = make_gpus(2), make_worker("desk")
    trained = make_job(team, created_at=FIRST, started_at=FIRST + timedelta(minutes=20))
    hold(trained, gpus, FIRST + timedelta(minutes=20), FIRST + timedelta(minutes=80), devices=2)
    hold(trained, gpus, FIRST + timedelta(minutes=90), FIRST + timedelta(minutes=100))
    waited = make_job(team, created_by=bob, created_at=FIRST, started_at=FIRST + timedelta(minutes=40))
    hold(waited, desk, FIRST + timedelta(minutes=40), FIRST + timedelta(minutes=70))
    assert usage_of(NOVEMBER, "user", team=team) == [
        UsageLine(2 * 3600 + 600, 0, 1, mean_wait_seconds=1200, team="research", user="alice"),
        UsageLine(0, 1800, 1, mean_wait_seconds=2400, team="research", user="bob"),
    ]
    assert usage_of(NOVEMBER, "team", team=None) == [
        UsageLine(7800, 1800, 2, mean_wait_seconds=1800, team="research"),
    ]
    by_job = usage_of(NOVEMBER, "job", team=team)
    assert [(line.job, line.gpu_seconds, line.cpu_seconds) for line in by_job] == [
        (trained.pk, 7800, 0),
        (waited.pk, 0, 1800),
    ]
    by_device = usage_of(NOVEMBER, "device", team=team)
    assert [(line.device, line.gpu_seconds, line.cpu_seconds, line.jobs) for line in by_device] == [
        ("0: NVIDIA H100", 4200, 0, 1),
        ("1: NVIDIA H100", 3600, 0, 1),
        ("0: A processor, 2 cores", 0, 1800, 1),
    ]


def test_a_part_of_a_device_counts_for_its_part(team: Team) -> None:
    """Two jobs hold three quarters of a GPU for an hour: 45 minutes of it, for accounting and fair share alike."""
    gpu = make_gpus(1)
    gpu.devices.update(is_shared=True)
    end = timezone.now()
    for share in (0.5, 0.25):
        hold(make_job(team), gpu, end - timedelta(hours=1), end)
        DeviceUse.objects.filter(memory_bytes=None).update(memory_bytes=80 * 2**30 * share)
    months = [Month.now(), Month.now().before]
    lines = [line for month in months for line in usage_of(month, "team", team=team)]
    assert sum(line.gpu_seconds for line in lines) == pytest.approx(2700)
    [use] = uses_of_teams()
    assert use.recent_hours == pytest.approx(0.75, rel=0.01)
    assert use.month_hours == pytest.approx(usage_of(Month.now(), "team", team=team)[0].gpu_seconds / 3600)


def test_the_turn_of_a_month_parts_a_use(team: Team) -> None:
    hold(make_job(team), make_gpus(1), FIRST - timedelta(hours=3), FIRST + timedelta(hours=5))
    assert gpu_hours("2026-10") == 3
    assert gpu_hours("2026-11") == 5
    assert gpu_hours("2026-12") == 0


def test_a_use_over_a_whole_month_fills_it(team: Team) -> None:
    hold(make_job(team), make_gpus(1), FIRST - timedelta(days=40), FIRST + timedelta(days=40))
    assert gpu_hours("2026-11") == 30 * 24
    assert gpu_hours("2026-10") == 31 * 24


def test_what_ends_at_midnight_is_of_the_month_before(team: Team) -> None:
    hold(make_job(team), make_gpus(1), FIRST - timedelta(hours=1), FIRST)
    assert usage_of(NOVEMBER, "user", team=team) == []


def test_what_still_runs_counts_up_to_now(team: Team) -> None:
    hold(make_job(team), make_gpus(1), timezone.now() - timedelta(seconds=90), None)
    months = {str(Month.now()), str(Month.now().before)}  # The test may run at the turn of one.
    assert 90 <= sum(map(gpu_hours, months)) * 3600 < 120


def gpu_hours(month: str) -> float:
    return sum(line.gpu_seconds for line in usage_of(Month.parse(month), "team", team=None)) / 3600


SECONDS_OF_A_YEAR = 365 * 86400
spans = st.tuples(st.integers(0, SECONDS_OF_A_YEAR), st.integers(1, 100 * 86400))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spans=st.lists(spans, min_size=1, max_size=6))
def test_months_add_up_to_what_was_held(team: Team, spans: list[tuple[int, int]]) -> None:
    """Whatever is held, its months together have every second of it once."""
    DeviceUse.objects.all().delete()
    job, year = make_job(team), datetime(2024, 1, 1, tzinfo=UTC)
    for start, length in spans:
        begun = year + timedelta(seconds=start)
        hold(job, make_gpus(1), begun, begun + timedelta(seconds=length))
    months = [f"{number // 12}-{number % 12 + 1:02}" for number in range(2024 * 12, 2024 * 12 + 17)]
    assert round(sum(map(gpu_hours, months)) * 3600) == sum(length for _, length in spans)


def test_a_team_sees_its_own_alone(team: Team) -> None:
    other = make_team(make_user())
    hold(make_job(other), make_gpus(1), FIRST, FIRST + timedelta(hours=1))
    assert usage_of(NOVEMBER, "job", team=team) == []
    assert len(usage_of(NOVEMBER, "job", team=None)) == 1


@pytest.mark.parametrize("text", ["", "2026", "2026-13", "2026-1", "1999-01", "2026-11-01", "٢٠٢٦-11"])
def test_no_month(text: str) -> None:
    with pytest.raises(Refusal, match="2026-11"):
        Month.parse(text)


def test_months_follow_each_other() -> None:
    assert [str(month) for month in (Month.parse("2026-12").after, Month.parse("2024-03").before)] == [
        "2027-01",
        "2024-02",
    ]


def test_page_and_file(team: Team) -> None:
    job = make_job(team, created_by=make_user("+mallory"), created_at=FIRST, started_at=FIRST + timedelta(minutes=1))
    hold(job, make_gpus(1), FIRST, FIRST + timedelta(hours=90))
    client = signed_in(team.memberships.get().user)
    page = client.get(reverse("team-usage", args=[team.slug]), {"month": "2026-11", "by": "job"}).content.decode()
    assert job.pk in page
    assert "90.0" in page
    answer = client.get(reverse("team-usage-csv", args=[team.slug]), {"month": "2026-11"})
    [row] = csv.DictReader(io.StringIO(answer.content.decode()))
    assert (row["month"], row["gpu_seconds"], row["mean_wait_seconds"]) == ("2026-11", "324000.0", "60.0")
    assert row["user"] == "'+mallory"  # No formula.
    assert client.get(reverse("team-usage", args=[team.slug]), {"month": "soon"}).status_code == 404


def test_questions_stay_few(team: Team, django_assert_num_queries: Any) -> None:
    for _ in range(3):
        hold(make_job(team), make_gpus(1), FIRST, FIRST + timedelta(hours=1))
    with django_assert_num_queries(2):
        usage_of(NOVEMBER, "user", team=None)
