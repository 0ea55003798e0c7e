"""Files as the world has them: each is uploaded, recognised, previewed, filled in by a preset, and trains a step.

`REAL_DATASETS=FOLDER` names them: whatever dataset files lie in that folder, none of which are ours to keep here.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.actions import add_dataset_version
from finetune_hub.catalog.local_files import dataset_file
from finetune_hub.catalog.models import BaseModel
from finetune_hub.catalog.preview import preview_row, token_statistics
from finetune_hub.jobs.planning import presets_for
from finetune_hub.scheduling.changes import changed
from finetune_hub.spec.run import DatasetFile, TrainRun
from finetune_hub.spec.training import DatasetChoice
from tests.engine.conftest import _keep_signal_handlers, train  # noqa: F401  # A fixture.
from tests.factories import first_member, make_base_model, make_team, make_worker
from tests.tiny_models import make_tiny_model

ENDINGS = {".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt"}
FOLDER = Path(os.environ.get("REAL_DATASETS", "/nowhere"))
FILES = sorted(path for path in FOLDER.glob("*") if path.suffix in ENDINGS)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason="REAL_DATASETS names no folder with dataset files"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def team(db: None, tiny: Path) -> Team:
    team = make_team()
    make_base_model(team, folder=tiny)
    make_worker()
    return team


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_real_file_goes_all_the_way(path: Path, team: Team, tiny: Path, tmp_path: Path) -> None:
    base_model = BaseModel.objects.get(team=team)
    version = add_dataset_version(team, first_member(team), name="real", file=path, filename=path.name)
    assert preview_row(version, base_model, 1, 1024).supervised_count > 0
    statistics = token_statistics(version, base_model, 1024)
    assert statistics.row_count == version.row_count > 0
    assert statistics.refused_count == 0
    (preset,) = presets_for(team, base_model.name, [DatasetChoice(name="real")], ["balanced"])
    assert (preset.spec.objective.type == "dpo") == (version.kind == "preference")
    once = {"training.max_steps": 1, "training.max_seq_len": 1024, "runtime.dtype": "float32", "evaluation.fraction": 0}
    run = TrainRun(
        spec=changed(preset.spec, once),
        base_model_dir=tiny,
        base_model_name="tiny",
        datasets=[DatasetFile(path=dataset_file(version), sha256=version.sha256)],
        output_dir=tmp_path / "out",
    )
    assert math.isfinite(train(run).final_loss)
