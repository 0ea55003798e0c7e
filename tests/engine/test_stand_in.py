"""The training loop makes none of a GPU's mistakes: every method and objective runs over a stand-in for one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import backend_registration

from finetune_hub.engine import dataset
from finetune_hub.engine.adapters import lora_layers
from finetune_hub.engine.kernels import expert_linear
from finetune_hub.engine.model import FastPaths
from finetune_hub.engine.objectives import sft
from tests.engine.conftest import events_of
from tests.engine.stand_in import HiddenWait, MixedDevices, StandIn, register
from tests.engine.stand_in_runs import (
    EXPERTS,
    EXPERTS_BASE,
    FAST,
    LORA,
    METHOD_CASES,
    METHODS_AS_THEY_COME,
    OBJECTIVE_CASES,
    OBJECTIVES_AS_THEY_COME,
    SFT,
    Kind,
    make_run,
    train_on,
    words_of,
)
from tests.tiny_models import make_tiny_model

CAN_REGISTER = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
pytestmark = pytest.mark.skipif(
    not CAN_REGISTER, reason=f"torch {torch.__version__} lets nobody define a device in Python"
)
if CAN_REGISTER:
    register()  # While tests are collected: whichever test of this process comes first may train on the CPU.
RunOnStandIn = Callable[..., None]


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "one-layer", layers=1)


@pytest.fixture
def run_on_stand_in(one_layer: Path, tmp_path: Path) -> RunOnStandIn:
    def run(
        method: Kind, objective: Kind = SFT, *, base: Path = one_layer, paths: FastPaths = FAST, **parts: Any
    ) -> None:
        reads = train_on(StandIn(), made := make_run(tmp_path, base, method, objective, **parts), paths)
        steps, evaluations = (events_of(made.output_dir, kind) for kind in ("step", "evaluation"))
        assert len(steps) == made.spec.training.max_steps
        assert len(reads) == len(steps) + len(evaluations)

    return run


@pytest.mark.parametrize("method", METHOD_CASES, ids=words_of)
def test_every_method(run_on_stand_in: RunOnStandIn, method: Kind) -> None:
    run_on_stand_in(method)


@pytest.mark.parametrize("objective", OBJECTIVE_CASES[1:], ids=words_of)
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
    monkeypatch.setattr(expert_linear, "_has_grouped_products", lambda device: device.type != "cpu")
    run_on_stand_in(EXPERTS, base=make_tiny_model(tmp_path / "mixture", **EXPERTS_BASE))


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
