"""One team's world: alice owns it, bob is her teammate, vera only looks; charlie owns a team of his own."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import uuid4

import pytest
from django.test import Client

from finetune_hub.accounts.models import Membership, Role, Team, User
from finetune_hub.fleet.models import Worker
from finetune_hub.jobs.lifecycle import EventDraft, add_events
from finetune_hub.jobs.models import Attempt, AttemptState, Job, JobState, MetricPoint
from finetune_hub.registry.models import AdapterVersion
from tests.factories import make_adapter_version, make_attempt, make_job, make_team, make_worker

CALLERS = ["owner", "teammate", "viewer", "outsider", "anonymous"]


@dataclass
class World:
    """A team with a job that runs and an adapter that is published, and a client for each kind of caller."""

    team: Team
    alice: User
    job: Job
    attempt: Attempt
    worker: Worker
    version: AdapterVersion
    clients: dict[str, Client]

    def __getitem__(self, caller: str) -> Client:
        return self.clients[caller]


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def make_world() -> World:
    alice, bob, vera, charlie = (User.objects.create(username=name) for name in ("alice", "bob", "vera", "charlie"))
    team = make_team(bob)
    Membership.objects.create(team=team, user=alice, role=Role.ADMIN)
    Membership.objects.create(team=team, user=vera, role=Role.VIEWER)
    version = make_adapter_version(team)
    worker = make_worker("gpu-1")
    job = make_job(team, state=JobState.RUNNING, step=2, total_steps=10)
    attempt = make_attempt(job, worker, state=AttemptState.RUNNING, lease_token=uuid4(), log_tail="the last words")
    add_events(job, [EventDraft("Submitted.")], actor=alice)
    for step in (1, 2):
        make_point(attempt, step)
    job.refresh_from_db()
    clients = {
        "owner": signed_in(alice),
        "teammate": signed_in(bob),
        "viewer": signed_in(vera),
        "outsider": signed_in(charlie),
        "anonymous": Client(),
    }
    make_team(charlie, role=Role.ADMIN)
    return World(team, alice, job, attempt, worker, version, clients)


def make_point(attempt: Attempt, step: int, *, loss: float | None = None, **measures: float) -> MetricPoint:
    return MetricPoint.objects.create(
        attempt=attempt,
        step=step,
        epoch=step / 10,
        loss=2.0 / step if loss is None else loss,
        learning_rate=2e-4,
        grad_norm=1.0,
        tokens=100,
        supervised_tokens=10,
        seconds=0.5,
        peak_memory_bytes=2**30,
        measures=measures,
    )


@pytest.fixture
def world(db: None) -> World:
    return make_world()
