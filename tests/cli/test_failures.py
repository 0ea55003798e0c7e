"""A failure is told in the same words from the engine that makes it to event, database, API, page and terminal."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from django.test import Client

from finetune_hub.accounts.models import Team
from finetune_hub.cli.client import Hub
from finetune_hub.data.defects import Defect, InvalidDataset
from finetune_hub.engine import commands
from finetune_hub.engine.errors import Diverged
from finetune_hub.jobs import worker_port
from finetune_hub.machine.event_file import read_events
from finetune_hub.spec.events import Failure
from finetune_hub.spec.problem import Failed
from finetune_hub.spec.run import DatasetFile, TrainRun
from tests.cli.conftest import RunCommand
from tests.factories import make_attempt, make_job, make_spec
from workers import attempt_run as attempt_module
from workers.attempt_folder import AttemptFolder
from workers.attempt_run import AttemptThread
from workers.kinds.registry import WORK
from workers.supervisor import write_json


def engine_that_raises(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an attempt run the engine in this process, without torch, and its training end by the error."""

    def fail(*_: object) -> None:
        raise error

    def run(folder: AttemptFolder, *_: object) -> Mock:
        rows = DatasetFile(path=folder.path / "rows.jsonl", sha256="0" * 64)
        document = TrainRun(
            spec=make_spec(),
            base_model_dir=folder.path,
            base_model_name="tiny",
            datasets=[rows],
            output_dir=folder.output,
        )
        (folder.path / "train.json").write_text(document.model_dump_json())
        status = commands.main(["train", str(folder.path / "train.json")])
        write_json(folder.path / "exit.json", {"status": status, "reason": None, "oom_kills": 0})
        return Mock(poll=lambda: 0)

    command = commands.COMMANDS["train"]
    monkeypatch.setitem(
        commands.COMMANDS, "train", commands.EngineCommand(command.help, command.document, fail, command.module)
    )
    monkeypatch.setattr(commands, "_silence_libraries", lambda: None)
    monkeypatch.setattr(AttemptFolder, "start_supervisor", run)
    monkeypatch.setattr(WORK["train"], "prepare", lambda *_: None)
    monkeypatch.setattr(attempt_module.connection, "close", lambda: None)


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            Diverged("Step 3 has the loss nan.", "Lower the rate."),
            Failed("diverged", "Step 3 has the loss nan.", "Lower the rate."),
        ),
        (
            InvalidDataset("rows.jsonl", [Defect("empty_messages", "`messages` is empty", "Add a turn.", line=4)]),
            Failed(
                "bad_data",
                "rows.jsonl: Line 4: `messages` is empty. Add a turn.",
                "Fix these rows, upload them to a hub as a new version, and submit the job again.",
            ),
        ),
        (
            ZeroDivisionError("oops"),
            Failed(
                "internal",
                "ZeroDivisionError: oops",
                "This is a bug in the engine; the log has the traceback.",
            ),
        ),
    ],
)
def test_a_failure_is_the_same_from_the_engine_to_every_face(
    hub: RunCommand,
    api: Hub,
    team: Team,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    expected: Failed,
) -> None:
    engine_that_raises(error, monkeypatch)
    kept: list[Failed] = []
    monkeypatch.setattr(AttemptFolder, "remove", lambda folder: kept.extend(failures_in(folder)))
    job = make_job(team)
    attempt = make_attempt(job)
    lease = worker_port.claim_attempt(attempt.pk, worker=attempt.worker)
    assert lease is not None
    AttemptThread(AttemptFolder.create(tmp_path / "attempts", lease, before=0.0)).run()
    assert kept == [expected], "in the event"

    job.refresh_from_db()
    attempt.refresh_from_db()
    assert [job.failure, attempt.failure] == [expected, expected], "in the database"

    told: dict[str, Any] = {
        "failure_class": expected.code,
        "message": expected.message,
        "remedy": expected.remedy,
    }
    answered = api.job(job.pk)
    failures = [answered.failure, answered.attempts[0].failure]
    assert [failure and failure.model_dump() for failure in failures] == [told, told], "in the API"

    browser = Client()
    browser.force_login(team.memberships.get().user)
    page = text_of(browser.get(f"/jobs/{job.pk}/").content.decode())
    in_words = f"{expected.code} {expected.message} {expected.remedy}".replace("`", "")
    assert page.count(in_words) == 2, "on the page: of the job and of its attempt"

    shown = hub("jobs", "show", job.pk).out
    assert shown.count(f"{expected.code}: {expected.message} {expected.remedy}\n") == 2, "in the terminal"
    waited = hub("jobs", "wait", job.pk)
    assert waited.code == 4
    assert f"{job.pk} failed ({expected.code}): {expected.message}\n{expected.remedy}\n" in waited.err

    history = [event.message for event in job.events.all() if expected.message in event.message]
    assert history == [f"Failed: {expected.message} {expected.remedy}"], "once in the history"


def failures_in(folder: AttemptFolder) -> list[Failed]:
    return [event.failed for event in read_events(folder.output)[0] if isinstance(event, Failure)]
