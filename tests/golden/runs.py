"""The runs behind the golden curves, and what is kept of each."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from finetune_hub.engine.train import loop
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.methods.registry import METHODS
from finetune_hub.spec.objectives.registry import OBJECTIVES
from finetune_hub.spec.run import TrainRun
from finetune_hub.spec.training import TrainingSpec
from tests.engine.conftest import dataset_file, events_of
from tests.engine.interruptions import interrupt
from tests.tiny_models import make_chat_rows, make_tiny_model

STEPS = 50
INTERRUPTED_AT = 23  # Between two evaluations, in the middle of an epoch.
METHOD_OPTIONS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "dropout": 0.1},
    "qlora": {"rank": 4, "dropout": 0.1},
    "prefix_tuning": {"virtual_tokens": 4},
    "prompt_tuning": {"virtual_tokens": 4},
}
LEARNING_RATES = {"lora": 2e-3, "qlora": 2e-3, "prefix_tuning": 0.1, "prompt_tuning": 0.1}
CURVES = [f"{method} {objective}" for method in METHODS for objective in OBJECTIVES]

Curve = dict[str, list[float]]


def train_curve(name: str, folder: Path) -> Curve:
    """Train the run of this name in one thread, interrupted and resumed; `folder` is empty.

    Returns:
        By what was measured: the values of all steps, or of all evaluations (`held_out_loss`).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = _make_run(name, folder)
        resumed = interrupt(run, INTERRUPTED_AT)
        with EventLog(run.output_dir) as log:
            loop.train(resumed, log)
    finally:
        torch.set_num_threads(threads)
    return _curve_of(run.output_dir)


def _curve_of(output_dir: Path) -> Curve:
    told = {"type", "at", "step", "epoch", "seconds", "peak_memory_bytes"}
    curve: Curve = {}
    for event in events_of(output_dir, "step"):
        values = event.model_dump(mode="json", exclude=told)
        for measure, value in (values | values.pop("measures")).items():
            curve.setdefault(measure, []).append(value)
    curve["held_out_loss"] = [event.loss for event in events_of(output_dir, "evaluation")]
    return curve


def _make_run(name: str, folder: Path) -> TrainRun:
    method, objective = name.split()
    rows = folder / "rows.jsonl"
    if objective == "sft":
        make_chat_rows(rows, 40)
    else:
        _make_pairs(rows, 40)
    spec = {
        "base_model": "tiny",
        "datasets": [{"path": str(rows)}],
        "method": {"type": method} | METHOD_OPTIONS[method],
        "objective": {"type": objective},
        "training": {
            "max_steps": STEPS,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "max_seq_len": 128,  # Some rows are longer.
            "learning_rate": LEARNING_RATES[method],
            "packing": True,
            "seed": 11,
        },
        "evaluation": {"fraction": 0.2, "every_steps": 10},
        "runtime": {"dtype": "float32"},
    }
    return TrainRun(
        spec=TrainingSpec.model_validate(spec),
        base_model_dir=make_tiny_model(folder / "base"),
        base_model_name="tiny",
        datasets=[dataset_file(rows)],
        output_dir=folder / "out",
    )


def _make_pairs(path: Path, count: int) -> None:
    """Pairs of ragged answers: the preferred one repeats the question's words, the other one is drawn."""
    draw = random.Random(5)
    words = [f"w{number}" for number in range(30)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            asked = draw.choices(words, k=draw.randint(1, 7))
            row = {
                "prompt": f"Repeat: {' '.join(asked)}",
                "chosen": " ".join(asked),
                "rejected": " ".join(draw.choices(words, k=draw.randint(1, 9))),
            }
            file.write(json.dumps(row) + "\n")
