"""Runs over a stand-in for a GPU: the training loop itself, from the base model's folder to the last step.

What it does on purpose beside the steps, reading numbers or writing files, is named in `train_on` and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from torch import Tensor
from transformers import PreTrainedModel

from finetune_hub.engine import model as model_module
from finetune_hub.engine import verify
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.kernels import document_attention
from finetune_hub.engine.methods import ENGINE_METHODS
from finetune_hub.engine.model import FastPaths
from finetune_hub.engine.objectives import registry as objectives
from finetune_hub.engine.peft import peft_format
from finetune_hub.engine.train import held_out, loop, setup
from finetune_hub.engine.train import step as step_module
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.methods.registry import METHODS
from finetune_hub.spec.objectives.registry import OBJECTIVES
from finetune_hub.spec.run import TrainRun
from finetune_hub.spec.training import TrainingSpec
from tests.engine.conftest import dataset_file
from tests.engine.stand_in import DEVICE, StandIn

Kind = dict[str, Any]
SMALL = {"rank": 4, "virtual_tokens": 4, "projection_hidden_size": 8}
COMPANIONS = {("init", "text"): {"init_text": "red green"}}  # What an option needs beside it.
FAST = FastPaths(packed=True, plain_head=True)


def cases_of(specs: Mapping[str, Any]) -> list[Kind]:
    """Each method or objective as it comes, and with every other value of its switches and choices.

    An option that several of them have is tried with the first.
    """
    cases, seen = [], set()
    for kind, spec in specs.items():
        sizes = {name: size for name, size in SMALL.items() if name in spec.model_fields}
        cases.append({"type": kind} | sizes)
        for name, field in spec.model_fields.items():
            values = (True, False) if field.annotation is bool else get_args(field.annotation)
            is_choice = field.annotation is bool or get_origin(field.annotation) is Literal
            for value in values if is_choice else ():
                if value != field.default and (name, value) not in seen:
                    seen.add((name, value))
                    cases.append({"type": kind, name: value} | sizes | COMPANIONS.get((name, value), {}))
    return cases


METHOD_CASES = cases_of({name: METHODS[name] for name in ENGINE_METHODS})
METHODS_AS_THEY_COME = [next(case for case in METHOD_CASES if case["type"] == name) for name in ENGINE_METHODS]
LORA, QLORA = METHODS_AS_THEY_COME[:2]
METHOD_CASES += [LORA | {"dropout": 0.1}, LORA | {"target_modules": ["embed_tokens", "q_proj"]}]
METHOD_CASES += [QLORA | {"use_dora": True}]
OBJECTIVE_CASES = cases_of({name: OBJECTIVES[name] for name in objectives.OBJECTIVES})
OBJECTIVES_AS_THEY_COME = [{"type": name} for name in objectives.OBJECTIVES]
SFT = OBJECTIVES_AS_THEY_COME[0]
EXPERTS = LORA | {"rank": 8, "target_modules": ["q_proj"], "target_parameters": ["gate_up_proj", "down_proj"]}
EXPERTS_BASE = {"architecture": "mixtral", "layers": 1, "num_local_experts": 4}


def words_of(kind: Kind) -> str:
    return " ".join(f"{name}={value}" for name, value in kind.items() if name not in SMALL)


def make_run(
    folder: Path,
    base_model_dir: Path,
    method: Kind,
    objective: Kind = SFT,
    *,
    training: Kind | None = None,
    runtime: Kind | None = None,
    evaluation: Kind | None = None,
) -> TrainRun:
    """One step of two micro batches, or as the keywords say."""
    rows = _write_rows(folder / "rows.jsonl", objective["type"])
    spec = {
        "base_model": "tiny",
        "datasets": [{"path": str(rows)}],
        "method": method,
        "objective": objective,
        "training": {"max_steps": 1, "micro_batch_size": 2, "gradient_accumulation_steps": 2} | (training or {}),
        "runtime": {"dtype": "bfloat16"} | (runtime or {}),
        "evaluation": evaluation or {},
    }
    return TrainRun(
        spec=TrainingSpec.model_validate(spec),
        base_model_dir=base_model_dir,
        base_model_name="tiny",
        datasets=[dataset_file(rows)],
        output_dir=folder / "out",
    )


def _write_rows(path: Path, objective: str) -> Path:
    """All alike: torch remembers what an operation gave on fake tensors of these shapes."""
    row: Kind = {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "b a"}]}
    if objective == "dpo":
        row = {"prompt": "a b", "chosen": "b a", "rejected": "a b"}
    path.write_text(8 * (json.dumps(row) + "\n"), encoding="utf-8")
    return path


def train_on(device: StandIn, run: TrainRun, paths: FastPaths = FAST) -> list[Tensor]:
    """The run on the device; gives what was read of it, a tensor for every time that the loop waited."""
    reads: list[Tensor] = []

    def load(folder: Path, **options: Any) -> PreTrainedModel:
        return device.take(model_module.load_base_model(folder, **options | {"device": "cpu"}))

    def take_paths(model: PreTrainedModel) -> FastPaths:
        document_attention.register()
        model.set_attn_implementation(document_attention.DOCUMENT_ATTENTION)
        return paths

    def read(results: Tensor) -> list[float]:
        assert results.device.type == DEVICE
        reads.append(results)
        return [1.0] * len(results)

    def backward(*args: Any, **kwargs: Any) -> Tensor:
        with device.within_a_micro_batch():
            return learn(*args, **kwargs)

    learn = step_module.backward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module, "backward", backward)
        # Before the first step: the base model is loaded, and kernels are proven, which compares numbers.
        patch.setattr(setup, "load_base_model", load)
        patch.setattr(setup, "prove_fast_paths", take_paths)
        patch.setattr(fast_modules, "_all_close", lambda actual, expected: len(actual) == len(expected))
        # Once a step and once an evaluation.
        patch.setattr(step_module, "read", read)
        patch.setattr(held_out, "read", read)
        # What becomes a file or stays on the host: best weights, checkpoints, the adapter, its probe.
        patch.setattr(held_out.BestWeights, "offer", lambda *_: True)
        patch.setattr(loop, "_write_checkpoint", lambda *_: None)
        patch.setattr(peft_format, "write_adapter", lambda *_, **__: None)
        patch.setattr(verify, "write_probe", lambda *_: None)
        with device, EventLog(run.output_dir) as log:
            loop.train(run.model_copy(update={"device": DEVICE}), log)
    return reads
