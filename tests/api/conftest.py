"""One team's world: alice owns it, bob is her teammate, vera only looks; charlie owns a team of his own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pytest
from rest_framework.test import APIClient

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Membership, Role, Team, User
from finetune_hub.jobs.models import AttemptState, Job, MetricPoint
from finetune_hub.registry.models import AdapterVersion
from tests.factories import make_adapter_version, make_attempt, make_job, make_team, make_worker


def pytest_itemcollected(item: pytest.Item) -> None:
    """Schemathesis gives the tests of all operations one id, of which xdist runs one: each gets its operation's."""
    if operation := getattr(item, "operation_label", None):
        item._nodeid = f"{item.nodeid}[{operation}]"


@dataclass
class World:
    """A team with a job that runs and an adapter that is published, and a client for each kind of caller."""

    team: Team
    alice: User
    job: Job
    version: AdapterVersion
    clients: dict[str, APIClient]

    def __getitem__(self, caller: str) -> APIClient:
        return self.clients[caller]


def client_with(
    user: User, team: Team, *, lifetime: timedelta = timedelta(days=1), scopes: list[str] | None = None
) -> APIClient:
    """A client with a token of these scopes; of all that the user's role allows when left out."""
    client = APIClient()
    _, secret = create_token(user, team, name="test", lifetime=lifetime, scopes=scopes)
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def world(db: None) -> World:
    alice, bob, vera, charlie = (User.objects.create(username=name) for name in ("alice", "bob", "vera", "charlie"))
    team = make_team(bob)
    Membership.objects.create(team=team, user=alice, role=Role.ADMIN)
    Membership.objects.create(team=team, user=vera, role=Role.VIEWER)
    version = make_adapter_version(team)
    job = make_job(team, step=2, total_steps=10)
    attempt = make_attempt(
        job, make_worker("gpu-1"), state=AttemptState.LOST, finished_at=job.created_at, log_tail="the last words"
    )
    for step in (1, 2, 3):
        make_point(attempt.pk, step=step, loss=2.0 / step)
    clients = {
        "owner": client_with(alice, team),
        "teammate": client_with(bob, team),
        "viewer": client_with(vera, team),
        "outsider": client_with(charlie, make_team(charlie, role=Role.ADMIN)),
        "anonymous": APIClient(),
        "expired": client_with(alice, team, lifetime=timedelta(seconds=-1)),
    }
    return World(team, alice, job, version, clients)


def make_point(attempt_id: int, *, step: int, loss: float) -> MetricPoint:
    return MetricPoint.objects.create(
        attempt_id=attempt_id,
        step=step,
        epoch=step / 10,
        loss=loss,
        learning_rate=2e-4,
        grad_norm=1.0,
        tokens=128,
        supervised_tokens=64,
        seconds=0.5,
        peak_memory_bytes=1 << 30,
    )
