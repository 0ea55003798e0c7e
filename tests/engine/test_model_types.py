"""Every model type trains, is saved, agrees with PEFT both ways and merges, or fails for a written-down reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.model_types import EXCEPTIONS, MODEL_TYPES, ORDINARY, STEPS, table, try_model_type

ALL = os.environ.get("MODEL_TYPES") == "all"  # Set by `make verify-full`.
TABLE = Path(__file__).parents[2] / "docs" / "model-types.md"

# Old model types and PEFT call what newer transformers and torch have renamed.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, dict[str, str]]]:
    found: dict[str, dict[str, str]] = {}
    yield found
    if ALL:
        TABLE.write_text(table(found), encoding="utf-8")


@pytest.mark.parametrize("model_type", MODEL_TYPES if ALL else ORDINARY)
def test_a_model_type(model_type: str, tmp_path: Path, outcomes: dict[str, dict[str, str]]) -> None:
    outcome = outcomes[model_type] = try_model_type(model_type, tmp_path / "work")
    failed = {step for step in STEPS if outcome[step] != "yes"}
    assert failed == EXCEPTIONS.get(model_type, {}).keys(), outcome


def test_the_table_names_every_type() -> None:
    assert len(MODEL_TYPES) >= 40
    text = TABLE.read_text(encoding="utf-8")
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:] == list(MODEL_TYPES)
