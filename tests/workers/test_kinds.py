"""What the attempts of each kind of job start with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_hub.jobs.kinds.kind import KINDS
from finetune_hub.spec.run import DatasetFile
from tests.factories import make_adapter_version, make_attempt, make_job, make_spec, make_team, make_user, make_worker
from workers.attempt_folder import AttemptFolder
from workers.kinds import evaluation
from workers.kinds.registry import WORK
from workers.kinds.work import Start

pytestmark = pytest.mark.django_db


def test_every_kind_has_its_work() -> None:
    assert list(WORK) == list(KINDS)


def test_an_evaluation_keeps_the_base_model_as_qlora_trained_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = DatasetFile(path=tmp_path / "rows.jsonl", sha256="0" * 64)
    for name, answer in (("base_model_folder", tmp_path), ("adapter_folder", tmp_path), ("dataset_files", [rows])):
        monkeypatch.setattr(evaluation, name, lambda _, answer=answer: answer)
    method = {"type": "qlora", "quantization": "fp4", "double_quantization": False}
    trained = make_spec(base_model="tiny").model_dump(mode="json", exclude_none=True) | {"method": method}
    version = make_adapter_version(make_team(make_user()), training_spec=trained)
    job = make_job(version.adapter.team, kind="evaluate", adapter_version=version, spec={"max_rows": 3})
    start = Start.of(make_attempt(job, make_worker()), AttemptFolder(tmp_path))
    WORK["evaluate"].prepare(start)
    written = json.loads((tmp_path / "evaluate.json").read_text())
    assert {name: written[name] for name in ("quantization", "double_quantization", "max_rows")} == {
        "quantization": "fp4",
        "double_quantization": False,
        "max_rows": 3,
    }
