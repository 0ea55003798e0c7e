"""The training loop makes none of a GPU's mistakes: every method and objective runs over a stand-in for one.

It is the loop itself, from the base model's folder to the last step. What it does on purpose beside the steps, reading
numbers or writing files, is named in `_on_the_stand_in` and in no other place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration
from transformers import PreTrainedModel

from finetune_hub.engine import dataset, fast_modules, held_out, peft_format, verify
from finetune_hub.engine import model as model_module
from finetune_hub.engine import train as loop
from finetune_hub.engine.adapters import lora_layers, registry
from finetune_hub.engine.events import EventLog
from finetune_hub.engine.kernels import document_attention, expert_linear
from finetune_hub.engine.model import FastPaths
from finetune_hub.engine.objectives import registry as objectives
from finetune_hub.engine.objectives import sft
from finetune_hub.spec.methods import METHODS
from finetune_hub.spec.objectives import OBJECTIVES
from finetune_hub.spec.training import TrainingSpec
from tests.engine.conftest import MakeRun, events_of
from tests.engine.stand_in import DEVICE, HiddenWait, MixedDevices, StandIn, move
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason=f"torch {torch.__version__} lets nobody define a device in Python",
)

Kind = dict[str, Any]
RunOnStandIn = Callable[..., None]
SMALL = {"rank": 4, "virtual_tokens": 4, "projection_hidden_size": 8}
COMPANIONS = {("init", "text"): {"init_text": "red green"}}  # What an option needs beside it.


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


METHOD_CASES = cases_of({name: METHODS[name] for name in registry.ADAPTERS})
METHODS_AS_THEY_COME = [next(case for case in METHOD_CASES if case["type"] == name) for name in registry.ADAPTERS]
(LORA, QLORA), SFT = METHODS_AS_THEY_COME[:2], {"type": "sft"}
METHOD_CASES += [LORA | {"dropout": 0.1}, LORA | {"target_modules": ["embed_tokens", "q_proj"]}]
METHOD_CASES += [QLORA | {"use_dora": True}]
OBJECTIVE_CASES = cases_of({name: OBJECTIVES[name] for name in objectives.OBJECTIVES})
OBJECTIVES_AS_THEY_COME = [{"type": name} for name in objectives.OBJECTIVES]


def words_of(kind: Kind) -> str:
    return " ".join(f"{name}={value}" for name, value in kind.items() if name not in SMALL)


@pytest.fixture(scope="module")
def base_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "one-layer", layers=1)


@pytest.fixture
def run_on_stand_in(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOnStandIn:
    """Trains one step in two micro batches, or as the keywords say."""

    def run(
        method: Kind,
        objective: Kind = SFT,
        *,
        paths: FastPaths = FastPaths(packed=True, plain_head=True),  # noqa: B008 (it is frozen)
        training: Kind | None = None,
        runtime: Kind | None = None,
        evaluation: Kind | None = None,
        **fields: Any,
    ) -> None:
        options = {"max_steps": 1, "gradient_accumulation_steps": 2} | (training or {})
        made = make_run(rows=write_rows(tmp_path / "rows.jsonl", objective["type"]), **options)
        parts = {
            "method": method,
            "objective": objective,
            "runtime": {"dtype": "bfloat16"} | (runtime or {}),
            "evaluation": evaluation or {},
        }
        spec = TrainingSpec.model_validate(made.spec.model_dump() | parts)
        with _on_the_stand_in(monkeypatch, paths) as reads, EventLog(made.output_dir) as log:
            loop.train(made.model_copy(update={"spec": spec, "device": DEVICE} | fields), log)
        steps, evaluations = (events_of(made.output_dir, kind) for kind in ("step", "evaluation"))
        assert len(steps) == options["max_steps"]
        assert len(reads) == len(steps) + len(evaluations)

    return run


def write_rows(path: Path, objective: str) -> Path:
    """All alike: torch remembers what an operation gave on fake tensors of these shapes."""
    row: Kind = {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "b a"}]}
    if objective == "dpo":
        row = {"prompt": "a b", "chosen": "b a", "rejected": "a b"}
    path.write_text(8 * (json.dumps(row) + "\n"), encoding="utf-8")
    return path


@contextmanager
def _on_the_stand_in(monkeypatch: pytest.MonkeyPatch, paths: FastPaths) -> Iterator[list[Tensor]]:
    """The device, with all that may wait for it; gives what was read."""
    device, reads = StandIn(), list[Tensor]()

    def load(folder: Path, **options: Any) -> PreTrainedModel:
        return move(model_module.load_base_model(folder, **options | {"device": "cpu"}))

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

    learn = loop.backward
    monkeypatch.setattr(loop, "backward", backward)
    # Before the first step: the base model is loaded, and kernels are proven, which compares numbers.
    monkeypatch.setattr(loop, "load_base_model", load)
    monkeypatch.setattr(loop, "prove_fast_paths", take_paths)
    monkeypatch.setattr(fast_modules, "_all_close", lambda actual, expected: len(actual) == len(expected))
    # Once a step and once an evaluation.
    monkeypatch.setattr(loop, "read", read)
    monkeypatch.setattr(held_out, "read", read)
    # What becomes a file or stays on the host: best weights, checkpoints, the adapter, its probe.
    monkeypatch.setattr(held_out.BestWeights, "offer", lambda *_: True)
    monkeypatch.setattr(loop, "_write_checkpoint", lambda *_: None)
    monkeypatch.setattr(peft_format, "write_adapter", lambda *_, **__: None)
    monkeypatch.setattr(verify, "write_probe", lambda *_: None)
    with device:
        yield reads


@pytest.mark.parametrize("method", METHOD_CASES, ids=words_of)
def test_every_method(run_on_stand_in: RunOnStandIn, method: Kind) -> None:
    run_on_stand_in(method)


@pytest.mark.parametrize("objective", OBJECTIVE_CASES, ids=words_of)
def test_every_objective(run_on_stand_in: RunOnStandIn, objective: Kind) -> None:
    run_on_stand_in(LORA, objective)


@pytest.mark.parametrize("objective", OBJECTIVES_AS_THEY_COME[1:], ids=words_of)
@pytest.mark.parametrize("method", METHODS_AS_THEY_COME[1:], ids=words_of)
def test_every_method_with_every_objective(run_on_stand_in: RunOnStandIn, method: Kind, objective: Kind) -> None:
    run_on_stand_in(method, objective)


@pytest.mark.parametrize(
    "parts",
    [
        {"paths": FastPaths(packed=False, plain_head=False)},
        {"runtime": {"dtype": "float32"}, "training": {"packing": False, "label_smoothing": 0.1, "neftune_alpha": 5}},
        {"runtime": {"dtype": "float16", "activation_checkpointing": True}, "training": {"optimizer": "adamw_8bit"}},
        {"evaluation": {"fraction": 0.25, "every_steps": 1}, "training": {"max_steps": 2}},
    ],
    ids=str,
)
def test_every_way_of_training(run_on_stand_in: RunOnStandIn, parts: Kind) -> None:
    run_on_stand_in(LORA, **parts)


def test_a_mixtures_experts(run_on_stand_in: RunOnStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On grouped products, as a GPU has them; one product an expert has to know how many rows each has."""
    monkeypatch.setattr(expert_linear, "_has_grouped_products", lambda device: device.type == DEVICE)
    base = make_tiny_model(tmp_path / "mixture", architecture="mixtral", layers=1, num_local_experts=4)
    stacks = {"rank": 8, "target_modules": ["q_proj"], "target_parameters": ["gate_up_proj", "down_proj"]}
    run_on_stand_in(LORA | stacks, base_model_dir=base)


# Planted faults: each is what somebody may write one day, and stops the run.


def test_a_tensor_left_on_the_cpu_is_caught(run_on_stand_in: RunOnStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    own = lora_layers.lora_linear
    monkeypatch.setattr(lora_layers, "lora_linear", lambda x, *others: own(x, *others) + torch.zeros(x.shape[-2], 1))
    with pytest.raises(MixedDevices, match=r"aten\.add\.Tensor takes tensors of standin and of cpu"):
        run_on_stand_in(LORA)


def test_a_number_read_in_a_micro_batch_is_caught(
    run_on_stand_in: RunOnStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def curious(*given: Any) -> Tensor:
        losses = own(*given)
        assert losses.sum().item() >= 0
        return losses

    own = sft.token_losses
    monkeypatch.setattr(sft, "token_losses", curious)
    with pytest.raises(HiddenWait, match=r"aten\._local_scalar_dense\.default waits for numbers of standin"):
        run_on_stand_in(LORA)


def test_a_batch_that_is_not_moved_is_caught(run_on_stand_in: RunOnStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "send", lambda tensor, _: tensor)
    with pytest.raises(MixedDevices, match=r"aten\.embedding\.default takes tensors of standin and of cpu"):
        run_on_stand_in(LORA)


@pytest.mark.parametrize(
    ("send", "message"),
    [
        (lambda tensor, device: tensor.to(device), "a copy from cpu to standin waits"),
        (lambda tensor, device: tensor.to(device, non_blocking=True).cpu(), "a copy from standin to cpu waits"),
    ],
    ids=["to the device", "to the host"],
)
def test_a_copy_that_waits_is_caught(
    run_on_stand_in: RunOnStandIn, monkeypatch: pytest.MonkeyPatch, send: Any, message: str
) -> None:
    monkeypatch.setattr(dataset, "send", send)
    with pytest.raises(HiddenWait, match=message):
        run_on_stand_in(LORA)
