"""`/metrics` names no team to another: a token sees its own team's jobs, and only the hub's staff see all of them."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Membership, Role, Team, User
from finetune_hub.jobs.models import AttemptState, JobState, Publication
from tests.dashboard.conftest import make_point
from tests.factories import make_adapter_version, make_attempt, make_job, make_member, make_team, make_user, make_worker

pytestmark = pytest.mark.django_db


@pytest.fixture
def alice() -> User:
    """An admin of `research`."""
    return make_user("alice")


@pytest.fixture
def research(alice: User) -> Team:
    return make_team(alice, slug="research", role=Role.ADMIN)


@pytest.fixture
def sales() -> Team:
    """Another team, which has one row of everything that is counted."""
    team = make_team(make_user("charlie"), slug="sales", role=Role.ADMIN)
    now = timezone.now()
    make_job(team, created_at=now - timedelta(minutes=10))
    running = make_attempt(
        make_job(team, state=JobState.RUNNING),
        make_worker("gpu-7"),
        state=AttemptState.RUNNING,
        lease_token=uuid4(),
        lease_expires_at=Now() + timedelta(seconds=30),
    )
    make_point(running, 1)
    ended = make_attempt(
        make_job(team), state="failed", failure_class="diverged", progress_at=now, started_at=now, finished_at=now
    )
    Publication.objects.create(job=ended.job, attempt=ended, step=1, adapter_version=make_adapter_version(team))
    return team


OF_JOBS = {
    "finetune_hub_queue_depth",
    "finetune_hub_queue_oldest_seconds",
    "finetune_hub_jobs_running",
    "finetune_hub_lease_age_seconds",
    "finetune_hub_steps_per_second",
    "finetune_hub_device_seconds_total",
    "finetune_hub_attempts_ended_total",
    "finetune_hub_publication_seconds_count",
}


def scrape(user: User, team: Team) -> dict[str, list[dict[str, str]]]:
    """The labels of each metric that is not 0, as a token of the user in the team sees them."""
    _, secret = create_token(user, team, name="prometheus", scopes=["metrics"])
    answer = Client(headers={"Authorization": f"Bearer {secret}"}).get("/metrics")
    assert answer.status_code == 200
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(answer.content.decode()):
        for sample in family.samples:
            if sample.value:
                found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_an_admin_sees_their_own_team_alone(alice: User, research: Team, sales: Team) -> None:
    assert not OF_JOBS & set(scrape(alice, research))
    assert "sales" not in str(scrape(alice, research).values())
    make_job(research)
    assert OF_JOBS & set(scrape(alice, research)) == {"finetune_hub_queue_depth", "finetune_hub_queue_oldest_seconds"}


def test_what_belongs_to_no_team_is_seen_by_every_admin(alice: User, research: Team, sales: Team) -> None:
    assert {"worker": "gpu-7", "health": "healthy"} in scrape(alice, research)["finetune_hub_worker_healthy"]


def test_the_team_itself_and_the_hubs_staff_see_it(research: Team, sales: Team) -> None:
    assert set(scrape(sales.memberships.get().user, sales)) >= OF_JOBS
    operator = make_member(research)
    operator.is_staff = True
    operator.save()
    seen = scrape(operator, research)
    assert set(seen) >= OF_JOBS
    assert seen["finetune_hub_device_seconds_total"] == [{"team": "sales", "device_kind": "cpu"}]


def test_an_admin_elsewhere_reads_nothing_of_a_team_where_they_are_a_member_now(
    alice: User, research: Team, sales: Team
) -> None:
    Membership.objects.create(team=sales, user=alice, role=Role.ADMIN)
    _, secret = create_token(alice, sales, name="prometheus", scopes=["metrics"])
    sales.memberships.filter(user=alice).update(role=Role.MEMBER)
    answer = Client(headers={"Authorization": f"Bearer {secret}"}).get("/metrics")
    assert answer.status_code == 403
