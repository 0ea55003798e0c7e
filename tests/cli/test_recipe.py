"""`finetune-hub recipe import`: the recipe on standard output, the notes on standard error."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_hub.cli.output import EXIT_BAD_INPUT
from finetune_hub.cli.recipes import read_recipe
from finetune_hub.spec.training import TrainingSpec
from tests.cli.conftest import run_command

FOREIGN = """\
model_name_or_path: acme/small
stage: sft
do_train: true
finetuning_type: lora
dataset: tickets
flash_attn: fa2
"""


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "foreign.yaml"
    path.write_text(FOREIGN)
    return path


def test_the_recipe_can_be_submitted_and_each_key_has_its_line(foreign: Path) -> None:
    answer = run_command("recipe", "import", foreign)
    assert answer.code == 0
    lines = [line.split()[0] for line in answer.err.splitlines()]
    assert lines[:6] == [line.partition(":")[0] for line in FOREIGN.splitlines()]
    imported = foreign.with_name("ours.yaml")
    imported.write_text(answer.out)
    assert TrainingSpec.model_validate(read_recipe(imported).document).datasets[0].name == "tickets"


def test_standard_input_and_json(foreign: Path) -> None:
    answer = run_command("recipe", "import", "-", "--json", stdin=FOREIGN)
    assert answer.json["program"] == "LLaMA-Factory"
    assert answer.json["recipe"]["base_model"] == "acme/small"
    assert {"key": "flash_attn", "outcome": "changed"}.items() <= answer.json["notes"][5].items()


def test_a_refused_recipe_prints_its_notes_and_no_recipe(foreign: Path) -> None:
    foreign.write_text(FOREIGN.replace("sft", "kto"))
    answer = run_command("recipe", "import", foreign)
    assert (answer.code, answer.out) == (EXIT_BAD_INPUT, "")
    assert "`stage` cannot be imported. The engine has no KTO objective" in answer.err


@pytest.mark.parametrize(("content", "code"), [(b"\xff", "file_unreadable"), (b"a: [", "unreadable_recipe")])
def test_what_cannot_be_read_says_so(foreign: Path, content: bytes, code: str) -> None:
    foreign.write_bytes(content)
    answer = run_command("recipe", "import", foreign, "--json")
    assert (answer.code, answer.error["code"]) == (EXIT_BAD_INPUT, code)
