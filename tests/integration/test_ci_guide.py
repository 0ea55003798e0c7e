"""docs/ci.md, followed word for word in a folder of its own, against a hub that really trains."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import RunningHub
from tests.tiny_models import make_chat_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

GUIDE = (Path(__file__).parents[2] / "docs" / "ci.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", GUIDE, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found.group(1)


class Pipeline:
    """A checkout with data, recipe and script, as the guide has them."""

    def __init__(self, folder: Path, hub: RunningHub, token: str) -> None:
        self.folder = folder
        make_chat_rows(folder / "tickets.jsonl", 24)
        (folder / "recipe.yaml").write_text(block("yaml"))
        (folder / "train.sh").write_text(block("sh"))
        scripts = Path(sys.executable).parent
        self.environment = {
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "HOME": str(folder),
            "FINETUNE_HUB_URL": hub.state.url,
            "FINETUNE_HUB_TOKEN": token,
        }

    def run(self, commit: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, "CI_COMMIT_SHA": commit, **variables}
        return subprocess.run(
            ["sh", "train.sh"], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def token(hub: RunningHub) -> str:
    """Of a hub that knows the guide's base model by name; the weights are tiny, the way is the same."""
    with hub.client() as client:
        job_id = client.import_base_model("smollm2-135m-instruct", "folder:tiny").job_id
        assert list(client.watch(job_id))[-1].job.state == "succeeded"
    [command] = re.findall(r"^python manage.py create_token (.*)$", GUIDE, flags=re.MULTILINE)
    return hub.new_token(*command.split())


@pytest.fixture
def pipeline(hub: RunningHub, token: str, tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path, hub, token)


def test_it_trains_and_pulls_and_may_be_run_again(pipeline: Pipeline, hub: RunningHub) -> None:
    done = pipeline.run("c0ffee")
    assert done.returncode == 0, done.stderr
    config: dict[str, Any] = json.loads((pipeline.folder / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert (pipeline.folder / "adapter" / "adapter_model.safetensors").stat().st_size > 0

    with hub.client() as client:
        jobs_before = len(client.jobs())
        (pipeline.folder / "adapter").rename(pipeline.folder / "earlier")
        assert pipeline.run("c0ffee").returncode == 0
        assert len(client.jobs()) == jobs_before


def test_bad_data_ends_with_3_and_names_the_line(pipeline: Pipeline) -> None:
    with (pipeline.folder / "tickets.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "Hello?"}]}\n')
    done = pipeline.run("bad-data")
    assert done.returncode == 3
    assert "tickets.jsonl, line 25" in done.stderr


def test_a_failed_training_ends_with_4_and_says_why(pipeline: Pipeline) -> None:
    recipe = pipeline.folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("alpha: 32", "alpha: 32, target_modules: [no_such_layer]"))
    done = pipeline.run("no-such-layer")
    assert done.returncode == 4, done.stderr
    assert "No linear layer of the base model is called 'no_such_layer'" in done.stderr
    assert "Choose `target_modules` from" in done.stderr
    assert not (pipeline.folder / "adapter").exists()


def test_a_hub_that_is_away_ends_with_6(pipeline: Pipeline) -> None:
    done = pipeline.run("away", FINETUNE_HUB_URL="http://127.0.0.1:9")
    assert done.returncode == 6
