"""`finetune-hub recipe preset`: a recipe on standard output, with a hub and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from finetune_hub.accounts.models import Team
from finetune_hub.spec.training import TrainingSpec
from tests.cli.conftest import RunCommand, run_command
from tests.cli.test_plan import base  # noqa: F401  # A fixture.
from tests.factories import chat_row, make_base_model, make_dataset_version, make_worker, write_rows
from tests.tiny_models import make_tokenizer


def test_what_it_prints_can_be_submitted(hub: RunCommand, team: Team, tmp_path: Path) -> None:
    make_dataset_version(team)
    make_base_model(team)
    make_worker()
    answer = hub("recipe", "preset", "best-quality", "--base-model", "tiny", "--dataset", "tickets:1=2")
    assert answer.code == 0, answer.err
    assert "rank: 64  # " in answer.out
    spec = TrainingSpec.model_validate(yaml.safe_load(answer.out))
    assert (spec.datasets[0].version, spec.datasets[0].weight) == (1, 2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(answer.out)
    assert hub("jobs", "submit", recipe).code == 0
    whole = hub("recipe", "preset", "best-quality", "--base-model", "tiny", "--dataset", "tickets:1=2", "--json").json
    assert TrainingSpec.model_validate(whole["spec"]) == spec


def test_without_a_hub(base: Path, tmp_path: Path) -> None:  # noqa: F811
    make_tokenizer(base)
    rows = write_rows(tmp_path / "rows.jsonl", [chat_row("hi", "ho " * 30)] * 40)
    answer = run_command("recipe", "preset", "quick", "--base-model", base, "--dataset", rows, "--device", "RTX 4090")
    assert answer.code == 0, answer.err
    spec = TrainingSpec.model_validate(yaml.safe_load(answer.out))
    assert (spec.datasets[0].path, spec.training.max_seq_len) == (str(rows), 256)


def test_pairs_choose_dpo(base: Path, tmp_path: Path) -> None:  # noqa: F811
    rows = write_rows(tmp_path / "pairs.jsonl", [{"prompt": "a?", "chosen": "b", "rejected": "c"}] * 40)
    answer = run_command("recipe", "preset", "--base-model", base, "--dataset", rows, "--device", "L4", "--json")
    assert answer.json["spec"]["objective"]["type"] == "dpo"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fastest", "--base-model", "tiny", "--dataset", "tickets"], "unknown_preset"),
        (["--base-model", "tiny"], "invalid_reference"),
        (["--base-model", "tiny", "--dataset", "a:b:c"], "invalid_reference"),
        (["--base-model", "none", "--dataset", "none.jsonl", "--device", "L4"], "unreadable_base_model"),
        (["--base-model", "none", "--dataset", "a.jsonl=0", "--device", "L4"], "invalid_reference"),
    ],
)
def test_what_cannot_be_made_says_why(hub: RunCommand, arguments: list[str], code: str) -> None:
    answer = hub("recipe", "preset", *arguments, "--json")
    assert (answer.code, json.loads(answer.err)["error"]["code"]) == (3, code)


def test_a_job_that_fits_nowhere_is_refused_unless_it_is_allowed_to(
    hub: RunCommand, team: Team, tmp_path: Path
) -> None:
    from tests.jobs.test_planning import LLAMA_13B

    make_dataset_version(team)
    make_base_model(team, facts=LLAMA_13B)
    make_worker()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base_model: tiny\ndataset: {name: tickets}\nruntime: {dtype: bfloat16}\n")
    refused = hub("jobs", "submit", recipe, "--json")
    assert (refused.code, refused.error["code"]) == (3, "does_not_fit")
    assert hub("jobs", "submit", recipe, "--allow-unfit").code == 0
