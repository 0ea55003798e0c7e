"""`finetune-hub plan`: with the hub's devices, or for a named one without any hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_hub.accounts.models import Team
from finetune_hub.cli.local_rows import rows_in
from finetune_hub.data.chat_template import ChatTemplate
from tests.cli.conftest import RunCommand, run_command
from tests.factories import chat_row, make_base_model, make_dataset_version, make_worker, write_rows
from tests.tiny_models import make_tokenizer

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 320,
    "tie_word_embeddings": True,
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model folder as planning reads it: a config, and headers that name shapes."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    header = json.dumps({"all": {"dtype": "BF16", "shape": [102_400], "data_offsets": [0, 204_800]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(204_800))
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("base_model: tiny\ndataset: {name: tickets}\n")
    return path


def test_without_a_hub(base: Path, recipe: Path) -> None:
    answer = run_command("plan", recipe, "--device", "A100 80GB", "--base", base)
    assert answer.code == 0
    assert answer.out.startswith("It fits A100 80GB")
    assert "activations" in answer.out
    as_json = run_command("plan", recipe, "--device", "A100 80GB", "--base", base, "--json").json
    assert as_json["devices"][0]["verdict"] == "fits"


def test_counts_the_rows_of_a_file(base: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("x" * 399 + "\n" + "x" * 399 + "\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base_model: base\ndataset: {path: rows.jsonl}\ntraining: {micro_batch_size: 1, epochs: 3}\n")
    answer = run_command("plan", recipe, "--device", "L4", "--json").json
    assert answer["devices"][0]["steps"] == 6


def test_counts_tokens_where_a_tokenizer_is_at_hand(base: Path, tmp_path: Path) -> None:
    rows = [chat_row("hi", "ho " * number) for number in range(1, 41)]
    write_rows(tmp_path / "rows.jsonl", rows)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("base_model: base\ndataset: {path: rows.jsonl}\n")
    guessed = run_command("plan", recipe, "--device", "L4", "--json").json
    assert "estimated from the file's size" in guessed["assumptions"][0]
    assert "tokenizer.json" in guessed["assumptions"][0], "it says why"
    make_tokenizer(base)
    measured = run_command("plan", recipe, "--device", "L4", "--json").json
    assert "measured with the base model's tokenizer" in measured["assumptions"][0]
    lengths = [len(ChatTemplate.from_folder(base).encode(row["messages"]).input_ids) for row in rows]
    counted = rows_in([(tmp_path / "rows.jsonl", 1.0)], base)[0]
    assert (counted.count, list(counted.lengths)) == (40, lengths)
    twice, _ = rows_in([(tmp_path / "rows.jsonl", 2.0), (tmp_path / "rows.jsonl", 1.0)], base)
    assert (twice.count, len(twice.lengths)) == (120, 120)


def test_what_does_not_fit_ends_with_bad_input(base: Path, recipe: Path) -> None:
    answer = run_command("plan", recipe, "--device", "cpu 0GB", "--base", base)
    assert answer.code == 3
    assert "It does not fit" in answer.out


def test_an_unknown_device_or_folder_is_named(base: Path, recipe: Path, tmp_path: Path) -> None:
    unknown = run_command("plan", recipe, "--device", "abacus", "--base", base, "--json")
    assert (unknown.code, unknown.error["code"]) == (3, "unknown_device")
    missing = run_command("plan", recipe, "--device", "L4", "--base", tmp_path / "none", "--json")
    assert (missing.code, missing.error["code"]) == (3, "unreadable_base_model")


def test_with_the_hubs_devices(hub: RunCommand, team: Team, recipe: Path) -> None:
    make_dataset_version(team)
    make_base_model(team)
    make_worker()
    answer = hub("plan", recipe)
    assert answer.code == 0, answer.err
    assert "It fits A processor, 2 cores" in answer.out
