"""What a recipe may call its base model: found, fetched once, pinned, and refused with a way out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_huggingface import COMMIT, TOKEN, FakeHuggingFace, Repository, running_huggingface
from tests.tiny_models import make_tiny_model


@pytest.fixture
def fake_huggingface(tmp_path: Path) -> Iterator[FakeHuggingFace]:
    folder = make_tiny_model(tmp_path / "published")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_tiny.py").write_text("raise SystemExit")
    with running_huggingface() as hub:
        hub.repositories["models/team/tiny"] = Repository(folder)
        yield hub


FIND = """
import sys
from pathlib import Path
from finetune_hub.cli.base_model import find_base_model
from finetune_hub.spec.refusal import Refusal
try:
    print(find_base_model(sys.argv[1], relative_to=Path.cwd()))
except Refusal as error:
    sys.exit(f"{error.code}: {error.message} {error.remedy}")
"""


def find(name: str, folder: Path, endpoint: str = "http://127.0.0.1:9") -> subprocess.CompletedProcess[str]:
    """In a process of its own: huggingface_hub reads its environment once."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": ":".join(sys.path),
        "HOME": str(folder / "home"),
        "FINETUNE_HUB_CACHE": str(folder / "cache"),
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": TOKEN,
    }
    command = [sys.executable, "-c", FIND, name]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.needs_torch
def test_a_model_on_huggingface_is_fetched_once_at_one_commit(
    fake_huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    answer = find("team/tiny@main", tmp_path, fake_huggingface.url)

    assert answer.returncode == 0, answer.stderr
    folder = Path(answer.stdout.strip())
    assert folder == tmp_path / "cache" / "models" / f"team--tiny@{COMMIT[:12]}"
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    }
    assert COMMIT in answer.stderr
    assert f"Bearer {TOKEN}" in fake_huggingface.tokens
    assert TOKEN not in answer.stdout + answer.stderr
    fake_huggingface.asked.clear()
    assert find("team/tiny", tmp_path, fake_huggingface.url).stdout == answer.stdout
    assert fake_huggingface.asked == []

    unknown = find("team/none", tmp_path, fake_huggingface.url)
    assert "unknown_repository: Hugging Face has no model team/none" in unknown.stderr


def test_a_server_out_of_reach_is_named(tmp_path: Path) -> None:
    answer = find("team/tiny", tmp_path)
    assert answer.returncode == 1
    assert "fetch_failed: team/tiny could not be downloaded from Hugging Face at" in answer.stderr
    assert "HF_ENDPOINT" in answer.stderr
    assert TOKEN not in answer.stderr


@pytest.mark.needs_torch
def test_folders_and_known_names_need_no_network(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    assert find("base", tmp_path).stdout.strip() == str(base)
    cached = tmp_path / "cache" / "models" / "smollm2-135m-instruct"
    shutil.copytree(base, cached)
    assert find("smollm2-135m-instruct", tmp_path).stdout.strip() == str(cached)
    assert "unknown_base_model: There is no folder" in find("smollm9", tmp_path).stderr
