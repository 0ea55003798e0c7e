"""The terminal names file, line and remedy, in the API's words, and ends with 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import Dataset
from finetune_hub.cli import datasets
from tests.api.bad_files import BAD_FILES, GOOD_ROW, BadFile
from tests.cli.conftest import RunCommand
from tests.factories import make_base_model, make_dataset_version


@pytest.mark.parametrize("bad", BAD_FILES, ids=lambda bad: bad.code)
def test_a_bad_dataset_is_refused_before_the_upload(
    bad: BadFile, hub: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(bad.name).write_text(bad.content)
    here = hub("datasets", "push", bad.name, "--json")
    spoken = hub("datasets", "push", bad.name)
    monkeypatch.setattr(datasets, "check_file", lambda *arguments, **options: None)
    there = hub("datasets", "push", bad.name, "--json")

    assert (here.code, spoken.code, there.code) == (3, 3, 3)
    assert here.error == there.error
    assert here.error["details"][0]["line"] == bad.line
    assert here.error["message"] in spoken.err
    assert here.error["remedy"] in spoken.err
    assert bad.line is None or f"{bad.name}, line {bad.line}" in spoken.err
    assert not Dataset.objects.exists()


def test_further_defects_are_listed(hub: RunCommand) -> None:
    Path("rows.jsonl").write_text(f"{GOOD_ROW}\n" + "{oops\n" * 20)
    answer = hub("datasets", "push", "rows.jsonl")
    assert "rows.jsonl, line 2, column 2:" in answer.err
    assert "line 3, column 2:" in answer.err
    assert "more" in answer.err


def test_a_missing_file_is_named(hub: RunCommand) -> None:
    for arguments in (("datasets", "push", "no.jsonl"), ("jobs", "submit", "no.yaml")):
        answer = hub(*arguments)
        assert answer.code == 3
        assert f"{arguments[2]} cannot be read: No such file or directory." in answer.err


RECIPE = """\
# A recipe.
base_model: tiny
dataset:
  name: tickets
training:
  epochs: 2
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("  epochs: 2", "  epoch: 2", 6, "Did you mean `epochs`?"),
        ("  epochs: 2", "  epochs: -2", 6, "greater than 0"),
        ("  name: tickets", "  name: tickts", 3, "Did you mean 'tickets'?"),
        ("  name: tickets", "  path: ../../rows.jsonl", 3, "does not read files"),
        ("  name: tickets", "  name: [", 6, "not YAML"),
        ("base_model: tiny", "base_model: tinny", 2, "Did you mean 'tiny'?"),
        ("base_model: tiny", "base_modell: tiny", 2, "`base_model`"),
        ("base_model: tiny", "base_model: tiny\nseed: 2026-01-01", 3, "no such field"),
        ("dataset:\n", "dataset:\n\tx: 1\n", 4, "not YAML"),
    ],
)
def test_a_bad_recipe_names_its_line(old: str, new: str, line: int, words: str, hub: RunCommand, team: Team) -> None:
    make_base_model(team)
    make_dataset_version(team)
    Path("recipe.yaml").write_text(RECIPE.replace(old, new))
    answer = hub("jobs", "submit", "recipe.yaml")
    assert answer.code == 3
    assert f"recipe.yaml, line {line}:" in answer.err
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert not team.jobs.exists()


def test_a_recipe_that_is_no_mapping_is_refused(hub: RunCommand) -> None:
    for text in ("", "- a\n", "just words"):
        Path("recipe.yaml").write_text(text)
        assert hub("jobs", "submit", "recipe.yaml", "--json").error["code"] == "invalid_recipe"


def test_an_unknown_base_model_has_a_remedy(hub: RunCommand) -> None:
    answer = hub("base-models", "import", "nope")
    assert answer.code == 3
    assert "smollm2-135m-instruct" in answer.err


@pytest.mark.parametrize("reference", ["x:0", "x:one", ":1", "x:"])
def test_a_reference_has_a_form(reference: str, hub: RunCommand) -> None:
    assert hub("adapters", "pull", reference, "--json").error["code"] == "invalid_reference"


def test_wrong_usage_ends_with_2(hub: RunCommand) -> None:
    assert hub("jobs", "submit").code == 2
