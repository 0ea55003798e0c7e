"""The command line against a real web process: `hub("jobs", "list")` runs a command in this process, as alice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_django.live_server_helper import LiveServer
from typer.testing import CliRunner

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Role, Team, User
from finetune_hub.cli.client import Hub
from finetune_hub.cli.main import app
from tests.factories import make_team


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error that `--json` printed on stderr."""
        error: dict[str, Any] = json.loads(self.err)["error"]
        return error


RunCommand = Callable[..., Answer]


def run_command(*arguments: str | Path, stdin: str = "") -> Answer:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Answer(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def team(transactional_db: None) -> Team:
    alice = User.objects.create(username="alice")
    return make_team(alice, role=Role.ADMIN)


@pytest.fixture
def secret(team: Team) -> str:
    return create_token(team.memberships.get().user, team, name="test")[1]


@pytest.fixture
def api(live_server: LiveServer, secret: str) -> Iterator[Hub]:
    """The client itself."""
    with Hub(live_server.url, secret) as hub:
        yield hub


@pytest.fixture
def hub(live_server: LiveServer, secret: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RunCommand:
    """Runs a command, logged in by the environment, in an empty folder."""
    monkeypatch.setenv("FINETUNE_HUB_URL", live_server.url)
    monkeypatch.setenv("FINETUNE_HUB_TOKEN", secret)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return run_command
