"""The model card: its header is read by machines, its text by people, and both tell the truth."""

from __future__ import annotations

import pytest
import yaml

from finetune_hub.registry.model_card import write_card
from tests.factories import make_base_model, make_dataset_version, make_spec, make_team, make_user

SUMMARY = {
    "steps": 50,
    "trained_tokens": 40_000,
    "supervised_tokens": 12_345,
    "final_loss": 0.0213,
    "dtype": "bfloat16",
}
VERIFICATION = {"max_difference": 3.1e-6, "tolerance": 1e-4}


@pytest.fixture
def card(db: None) -> str:
    team = make_team(make_user())
    return write_card(
        make_spec(method={"type": "lora", "rank": 8}),
        job_id="ftjob-1",
        base_model=make_base_model(team),
        dataset_versions=[make_dataset_version(team)],
        summary=SUMMARY,
        verification=VERIFICATION,
    )


def test_its_header_is_the_hubs_own(card: str) -> None:
    _, header, _ = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "base_model": "tiny",
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "sft"],
        "datasets": ["tickets"],
    }


def test_it_tells_from_what_how_and_how_well_checked(card: str) -> None:
    for words in (
        "| tickets | 1 | 8 | `",
        "50 steps",
        "12,345",
        "0.0213",
        "rank: 8",
        "3.1e-06",
        "Apache-2.0",
        "| llama.cpp | after an export |",
    ):
        assert words in card


def test_its_code_is_python(card: str) -> None:
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")
