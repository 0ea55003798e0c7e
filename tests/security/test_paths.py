"""A failure is shown without the folders of the machine's disk; whoever runs the machine reads them in a log."""

from __future__ import annotations

import logging

import pytest
from django.test import Client

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Team, User
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Attempt, Job
from finetune_hub.operations.models import RoundName, record_round
from finetune_hub.spec.events import Log
from finetune_hub.spec.problem import Failed
from tests.factories import make_attempt, make_job, make_team, make_user, make_worker
from workers.attempt_folder import AttemptFolder
from workers.attempt_run import AttemptThread
from workers.supervisor import boot_clock

pytestmark = pytest.mark.django_db

FOLDER = "/srv/secret place/work/12-ab"
PLACE = f"[Errno 28] No space left on device: '{FOLDER}/output/x.bin'"
LOG = f'Traceback:\n  File "/opt/secret/lib/site-packages/torch/x.py", line 1\nOSError: {PLACE}\n'


@pytest.fixture
def alice() -> User:
    return make_user("alice")


@pytest.fixture
def team(alice: User) -> Team:
    return make_team(alice)


def pages(user: User, team: Team, *addresses: str) -> str:
    """What a browser and a program get at all of the addresses."""
    browser, (_, secret) = Client(), create_token(user, team, name="ci")
    browser.force_login(user)
    program = Client(headers={"Authorization": f"Bearer {secret}"})
    answers = [(program if address.startswith("/api/") else browser).get(address) for address in addresses]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    return "".join(answer.content.decode() for answer in answers)


def of_job(job: Job) -> list[str]:
    parts = ["", "/events", "/log"]
    return ["/", "/jobs/", f"/jobs/{job.pk}/", *(f"/api/jobs/{job.pk}{part}" for part in parts)]


def test_of_a_failed_job(
    alice: User, team: Team, caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    worker = make_worker()
    attempt = make_attempt(make_job(team), worker)
    lease = worker_port.claim_attempt(attempt.pk, worker=worker)
    assert lease
    folder = AttemptFolder.create(tmp_path_factory.mktemp("work"), lease, before=boot_clock())
    (folder.path / "engine.log").write_text("x" * 64_000 + f" {PLACE}\n" + LOG * 10)
    worker_port.record_events(lease, [Log(level="warn", message=f"Try again: {PLACE}")], start=0, end=1)
    AttemptThread(folder)._record_log()
    with caplog.at_level(logging.WARNING):
        worker_port.fail(lease, Failed("bad_data", f"It ended ({PLACE}).", f"Look into '{FOLDER}'."))
    seen = pages(alice, team, *of_job(attempt.job))
    assert "secret" not in seen
    assert "/srv" not in seen
    assert "…/output/x.bin" in seen
    assert "site-packages/torch/x.py" in seen
    assert FOLDER in caplog.text, "whoever runs the worker reads it"
    assert "site-packages" in Attempt.objects.get().log_tail


def test_of_the_hubs_health(alice: User, team: Team) -> None:
    record_round(RoundName.PROBE, f"A file cannot be written: {PLACE}")
    addresses = ["/workers/health/", "/api/health/report"]
    seen = pages(alice, team, *addresses)
    assert "secret" not in seen
    assert "…/output/x.bin" in seen
    alice.is_staff = True
    alice.save()
    assert FOLDER in pages(alice, team, *addresses)
