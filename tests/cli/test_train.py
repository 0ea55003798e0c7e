"""`finetune-hub train`: a recipe runs without any service, says where it fails, stops and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import run_command
from tests.tiny_models import make_chat_rows, make_tiny_model

pytestmark = pytest.mark.needs_torch

RECIPE = """\
base_model: base
dataset: {path: rows.jsonl}
method: {type: lora, rank: 4, alpha: 8, target_modules: all-linear}
objective: {type: sft, supervise: assistant}
training: {epochs: EPOCHS, micro_batch_size: 2, gradient_accumulation_steps: 2, packing: true, seed: 7}
evaluation: {fraction: 0.2, every_steps: 50, samples: 1}
runtime: {dtype: float32, activation_checkpointing: false, gpus: 1}
"""
SUMMARY_KEYS = {
    *("steps", "tokens", "supervised_tokens", "tokens_per_second", "peak_rss_bytes", "peak_gpu_bytes"),
    *("trainable_parameters", "total_parameters", "losses", "evaluation_loss", "adapter_dir"),
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_tiny_model(tmp_path / "base")
    make_chat_rows(tmp_path / "rows.jsonl", 20)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("EPOCHS", "2"))
    return path


def test_a_recipe_becomes_a_verified_adapter(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    answer = run_command("train", recipe, "--output", output, "--threads", "1", "--json")

    assert answer.code == 0, answer.err
    assert len(answer.out.splitlines()) == 1
    summary = answer.json
    assert summary.keys() == SUMMARY_KEYS
    assert summary["steps"] == len(summary["losses"]) == 8
    assert summary["losses"][-1] < summary["losses"][0]
    assert summary["tokens_per_second"] > 0
    assert 0 < summary["trainable_parameters"] < summary["total_parameters"]
    assert summary["peak_rss_bytes"] > 1e8
    assert (Path(summary["adapter_dir"]) / "adapter_model.safetensors").is_file()
    assert (output / "verify" / "result.json").is_file()
    assert "held-out loss" in answer.err

    again = run_command("train", recipe, "--output", output)
    assert (again.code, "already has a run" in again.err) == (3, True)


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(recipe: Path, tmp_path: Path) -> None:
    whole = RECIPE.replace("EPOCHS", "60")
    # Sample answers at each step take so long that it is far from its end when the signal comes, on any machine.
    recipe.write_text(whole.replace("every_steps: 50, samples: 1", "every_steps: 1, samples: 4"))
    output = tmp_path / "out"
    for number, options in ((signal.SIGINT, []), (signal.SIGTERM, ["--resume"])):
        taken = len(steps_of(output))
        code = "from finetune_hub.cli.main import main; main()"
        command = [sys.executable, "-c", code, "train", str(recipe), "--output", str(output), "--threads", "1"]
        with (tmp_path / "stderr").open("wb") as stderr:
            running = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=stderr)
        deadline = time.monotonic() + 120
        while len(steps_of(output)) == taken:
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(running.pid, number)
        assert running.wait(60) == 5
        said = (tmp_path / "stderr").read_text()
        assert f"finetune-hub train {recipe} --output {output} --resume" in said
        assert taken < len(steps_of(output)) < 120

    recipe.write_text(whole)
    answer = run_command("train", recipe, "--output", output, "--threads", "1", "--resume", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["steps"] == len(answer.json["losses"]) == 240


def steps_of(output: Path) -> list[dict[str, Any]]:
    """The steps that a run has told of so far."""
    events = output / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True) if events.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in told if event["type"] == "step"]


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("packing: true", "paking: true", 5, "Did you mean `packing`?"),
        ("micro_batch_size: 2", "micro_batch_size: 0", 5, "greater than or equal to 1"),
        ("path: rows.jsonl", "path: none.jsonl", 2, "there is no file"),
        ("path: rows.jsonl", "name: tickets", 2, "registered in a hub"),
        ("base_model: base", "base_model: nowhere", 1, "There is no folder"),
    ],
)
def test_a_bad_recipe_is_refused_with_its_line(
    recipe: Path, tmp_path: Path, before: str, after: str, line: int, words: str
) -> None:
    recipe.write_text(RECIPE.replace("EPOCHS", "1").replace(before, after))
    answer = run_command("train", recipe, "--output", tmp_path / "out")
    assert answer.code == 3
    assert f"recipe.yaml, line {line}: " in answer.err
    assert words in answer.err


def test_what_the_engine_refuses_keeps_its_words(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": []}) + "\n")
    answer = run_command("train", recipe, "--output", tmp_path / "out", "--json")
    assert answer.code == 3
    assert answer.error["code"] == "bad_data"
    assert "Line 1, column 14" in answer.error["message"]
    nothing = run_command("train", recipe, "--output", tmp_path / "other", "--resume")
    assert (nothing.code, "has no checkpoint" in nothing.err) == (3, True)
