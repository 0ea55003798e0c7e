"""Deletion in a terminal: what would go is printed and asked for, and the way back is named."""

from __future__ import annotations

import re

import pytest

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import Deletion
from finetune_hub.cli import deleting
from tests.cli.conftest import RunCommand
from tests.factories import make_adapter_version, make_dataset_version, make_job


def test_an_adapter_is_deleted_and_comes_back(hub: RunCommand, team: Team) -> None:
    make_adapter_version(team)
    deleted = hub("adapters", "delete", "tickets-tiny:1")
    assert "It can be restored for 7 days. After that, 2 files (4.1 kB) are deleted." in deleted.err
    assert deleted.out == "tickets-tiny:1 is deleted.\n"
    way_back = re.search(r"finetune-hub trash restore (del-\w+)", deleted.err)
    assert way_back
    assert hub("adapters", "list", "--json").json == []
    assert hub("adapters", "delete", "tickets-tiny", "--json").error["code"] == "unknown_adapter"
    assert way_back[1] in hub("trash", "list").out
    assert hub("trash", "restore", way_back[1]).out == "Restored adapter tickets-tiny v1.\n"
    assert hub("trash", "list", "--json").json == []
    assert hub("adapters", "list", "--json").json[0]["name"] == "tickets-tiny"


def test_datasets_are_deleted_by_version_or_whole(hub: RunCommand, team: Team) -> None:
    make_adapter_version(team, dataset_version=make_dataset_version(team, "others"))
    for question in ("a", "b"):
        make_dataset_version(team, rows=[{"prompt": question, "completion": "x"}])
    first = hub("datasets", "delete", "tickets:1", "--json").json
    assert (first["subject"], first["kind"]) == ("dataset tickets v1", "dataset")
    for thing in (("datasets", "delete", "tickets"), ("adapters", "delete", "tickets-tiny")):
        refused = hub(*thing, "--json")  # A script may have forgotten the version.
        assert (refused.code, refused.error["code"]) == (3, "invalid_reference")
    assert "dataset tickets (1 version)" in hub("datasets", "delete", "tickets", "--yes").err
    assert [row["name"] for row in hub("datasets", "list", "--json").json] == ["others"]
    assert hub("datasets", "delete", "tickets").code == 3
    assert {row["subject"] for row in hub("trash", "list", "--json").json} == {
        "dataset tickets v1",
        "dataset tickets (1 version)",
    }


def test_what_needs_it_is_printed_and_nothing_goes(hub: RunCommand, team: Team) -> None:
    job = make_job(team)
    for arguments in (
        ("jobs", "delete", job.pk),
        ("datasets", "delete", "tickets:1", "--yes"),
        ("base-models", "delete", "tiny", "--yes"),
    ):
        refused = hub(*arguments)
        assert refused.code == 3
        assert f"{job.pk} (tickets-tiny) is queued" in refused.err
    assert not Deletion.objects.exists()


def test_what_stops_working_is_asked_for_or_accepted(
    hub: RunCommand, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter_version(team)
    refused = hub("base-models", "delete", "tiny")
    assert refused.code == 3
    assert "adapter tickets-tiny v1 needs it" in refused.err
    assert not Deletion.objects.exists()
    answers = [False, True]
    asked: list[str] = []

    def confirm(question: str, **_: object) -> bool:
        asked.append(question)
        return answers[len(asked) - 1]

    monkeypatch.setattr(deleting.typer, "confirm", confirm)
    monkeypatch.setattr(deleting, "is_asked", lambda: True)
    assert hub("base-models", "delete", "tiny").code == 1
    assert not Deletion.objects.exists()
    assert hub("base-models", "delete", "tiny").code == 0
    assert asked == ["Delete base model tiny?"] * 2
    hub("trash", "restore", Deletion.objects.get().pk)
    assert hub("base-models", "delete", "tiny", "-y").code == 0
    assert len(asked) == 2
