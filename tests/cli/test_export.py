"""`finetune-hub export`: files where they were asked for, a sentence where there is none, and nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import run_command
from tests.engine.test_export import make_adapter
from tests.tiny_models import make_tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_adapter(make_tiny_model(tmp_path / "base"), tmp_path / "adapter")
    return tmp_path


def test_an_adapter_is_exported_once(folder: Path) -> None:
    options = ("--base", folder / "base", "--format", "portable", "--output", folder / "out", "--threads", "1")
    answer = run_command("export", folder / "adapter", *options, "--json")

    assert answer.code == 0, answer.err
    assert len(answer.out.splitlines()) == 1
    summary = answer.json
    assert (summary["output_dir"], summary["format"]) == (str(folder / "out"), "portable")
    assert {entry["path"] for entry in summary["files"]} == {path.name for path in (folder / "out").iterdir()}
    assert summary["distance"] <= summary["tolerance"] < summary["moved"]
    settings = json.loads((folder / "out" / "adapter_config.json").read_bytes())
    assert settings["lora_alpha"] == settings["r"] == 4
    assert settings["base_model_name_or_path"] == "tiny"
    assert "reloading and comparing" in answer.err

    again = run_command("export", folder / "adapter", *options)
    assert (again.code, "exists already" in again.err) == (3, True)
    assert {path.name for path in folder.iterdir()} == {"adapter", "base", "out"}


def test_what_cannot_be_exported_leaves_nothing(folder: Path) -> None:
    options = ("--base", folder / "base", "--format", "merged", "--dtype", "q8_0", "--output", folder / "out")
    answer = run_command("export", folder / "adapter", *options)
    assert answer.code == 3
    assert "safetensors does not support q8_0" in answer.err
    assert {path.name for path in folder.iterdir()} == {"adapter", "base"}


@pytest.mark.parametrize(
    ("adapter", "base", "message"),
    [("base", "base", "no adapter_config.json in"), ("adapter", "nowhere", "There is no folder")],
)
def test_a_wrong_folder_is_named_at_once(folder: Path, adapter: str, base: str, message: str) -> None:
    options = ("--base", folder / base, "--format", "peft", "--output", folder / "out")
    answer = run_command("export", folder / adapter, *options)
    assert (answer.code, message in answer.err) == (3, True)
