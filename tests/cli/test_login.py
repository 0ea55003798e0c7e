"""`login`: a token is checked, kept privately, and sent to nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_django.live_server_helper import LiveServer

from finetune_hub.cli.login import credentials_path
from tests.cli.conftest import RunCommand


@pytest.fixture
def logged_out(hub: RunCommand, monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    monkeypatch.delenv("FINETUNE_HUB_URL")
    monkeypatch.delenv("FINETUNE_HUB_TOKEN")
    return hub


def test_a_login_is_kept_for_its_owner_only(logged_out: RunCommand, live_server: LiveServer, secret: str) -> None:
    answer = logged_out("login", "--url", f"{live_server.url}/", "--token", "-", stdin=f"{secret}\n")
    assert answer.code == 0
    assert "alice (admin in" in answer.out
    assert credentials_path().stat().st_mode & 0o777 == 0o600
    assert logged_out("jobs", "list", "--json").json == []


def test_a_login_asks_for_the_token_unseen(logged_out: RunCommand, live_server: LiveServer, secret: str) -> None:
    answer = logged_out("login", "--url", live_server.url, stdin=f"{secret}\n")
    assert answer.code == 0
    assert secret not in answer.out + answer.err


def test_a_wrong_token_is_not_kept(logged_out: RunCommand, live_server: LiveServer) -> None:
    answer = logged_out("login", "--url", live_server.url, "--token", "fth_wrong")
    assert answer.code == 3
    assert "unknown, expired or revoked" in answer.err
    assert not credentials_path().exists()


def test_a_kept_token_goes_to_no_other_hub(
    logged_out: RunCommand, live_server: LiveServer, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged_out("login", "--url", live_server.url, "--token", secret)
    monkeypatch.setenv("FINETUNE_HUB_URL", "http://127.0.0.1:9")
    answer = logged_out("jobs", "list", "--json")
    assert (answer.code, answer.error["code"]) == (3, "not_logged_in")


def test_without_a_login_the_remedy_is_one(logged_out: RunCommand) -> None:
    answer = logged_out("jobs", "list")
    assert answer.code == 3
    assert "finetune-hub login" in answer.err


def test_a_spoilt_file_says_so(logged_out: RunCommand, tmp_path: Path) -> None:
    credentials_path().parent.mkdir(parents=True)
    credentials_path().write_text("{")
    assert logged_out("jobs", "list", "--json").error["code"] == "file_unreadable"


def test_a_hub_that_is_down_is_no_bad_input(logged_out: RunCommand) -> None:
    answer = logged_out("login", "--url", "http://127.0.0.1:9", "--token", "x")
    assert answer.code == 6
    assert "does not respond" in answer.err


def test_an_address_that_is_none_is_said_so(logged_out: RunCommand) -> None:
    answer = logged_out("login", "--url", "127.0.0.1", "--token", "x")
    assert answer.code in {3, 6}
    assert "Error:" in answer.err
