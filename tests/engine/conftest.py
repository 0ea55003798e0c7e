"""One tiny base model for all engine tests, and a quick way to a training run."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune_hub.spec.events import EngineEvent, engine_event
from finetune_hub.spec.run import DatasetFile, TrainResult, TrainRun
from finetune_hub.spec.training import TrainingSpec
from tests.tiny_models import make_chat_rows, make_tiny_model

MakeRun = Callable[..., TrainRun]


@pytest.fixture(scope="session")
def base_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.fixture
def make_run(tmp_path: Path, base_model_dir: Path) -> MakeRun:
    """A run on 12 ragged rows in float32; keywords override training options, `method` and `run` their own parts."""

    def make(
        *,
        rows: Path | None = None,
        method: dict[str, Any] | None = None,
        run: dict[str, Any] | None = None,
        **options: Any,
    ) -> TrainRun:
        rows = rows or make_chat_rows(tmp_path / "rows.jsonl", 12)
        spec = {
            "base_model": "tiny",
            "datasets": [{"path": str(rows)}],
            "method": {"rank": 4} | (method or {}),
            "training": {"micro_batch_size": 2, "learning_rate": 0.01, "schedule": "constant"} | options,
            "runtime": {"dtype": "float32"},
        }
        fields: dict[str, Any] = {
            "spec": TrainingSpec.model_validate(spec),
            "base_model_dir": base_model_dir,
            "base_model_name": "tiny",
            "datasets": [dataset_file(rows)],
            "output_dir": tmp_path / "out",
        }
        return TrainRun(**fields | (run or {}))

    return make


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors are computed faster by one thread than by several that wait for each other."""

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _keep_signal_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def dataset_file(path: Path, weight: float = 1.0) -> DatasetFile:
    return DatasetFile(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), weight=weight)


def train(run: TrainRun) -> TrainResult:
    """Train in this process."""
    from finetune_hub.engine.train import loop
    from finetune_hub.machine.event_file import EventLog

    with EventLog(run.output_dir) as log:
        return loop.train(run, log)


def events_of(output_dir: Path, kind: str | None = None) -> list[EngineEvent]:
    lines = (output_dir / "events.jsonl").read_bytes().splitlines()
    found = [engine_event.validate_json(line) for line in lines]
    return [event for event in found if kind in (None, event.type)]


def adapter_bytes(output_dir: Path) -> bytes:
    return (output_dir / "adapter" / "adapter_model.safetensors").read_bytes()
