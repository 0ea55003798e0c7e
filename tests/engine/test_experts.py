"""A mixture's experts: the kernels give the plain formulas' values, and whole models what their own code gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.kernels import expert_linear as expert_module
from finetune_hub.engine.kernels import products
from finetune_hub.engine.kernels.expert_linear import ExpertLora, expert_linear
from finetune_hub.engine.kernels.mixture import mixture
from finetune_hub.engine.model import load_base_model
from finetune_hub.spec.methods.low_rank import LoraMethod
from tests.engine.model_types import write_base
from tests.engine.test_kernels import randn

ENDS = torch.tensor([3, 3, 10, 16], dtype=torch.int32)  # The second of four experts has no rows.
EXPERT_OF_ROW = torch.tensor([0] * 3 + [2] * 7 + [3] * 6)
STACKS = ["gate_up_proj", "down_proj"]
IDS = torch.arange(20)[None] * 7 % 256


def given(
    *, has_lora: bool, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, ExpertLora | None]:
    """Rows (16, 24) and weights (4, 32, 24), with an adapter of rank 8, whose B lies in memory as PEFT's does."""
    x, weight = randn(16, 24).to(dtype).requires_grad_(), (randn(4, 32, 24, seed=1) / 5).to(dtype)
    a, b = (randn(4, 8, 24, seed=2) / 3).to(dtype), (randn(32, 8, 4, seed=3) / 3).to(dtype).permute(2, 0, 1)
    return x, weight, ExpertLora(a.requires_grad_(), b.requires_grad_(), 0.5) if has_lora else None


def plain(x: torch.Tensor, weight: torch.Tensor, lora: ExpertLora | None) -> torch.Tensor:
    written_out = weight if lora is None else weight + lora.scale * lora.lora_b @ lora.lora_a
    return torch.einsum("si,soi->so", x, written_out[EXPERT_OF_ROW])


@pytest.mark.parametrize("has_lora", [False, True])
def test_an_experts_layer_equals_its_formula(has_lora: bool) -> None:
    x, weight, lora = given(has_lora=has_lora)
    y, expected = expert_linear(x, weight, ENDS, lora), plain(x, weight, lora)
    torch.testing.assert_close(y, expected)
    target, varied = randn(16, 32, seed=6), [x, *(lora[:2] if lora else ())]
    gradients = torch.autograd.grad((y * target).sum(), varied)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * target).sum(), varied))


@pytest.mark.parametrize("has_lora", [False, True])
def test_grouped_products_give_the_same(monkeypatch: pytest.MonkeyPatch, has_lora: bool) -> None:
    """A GPU's way through, on the CPU; `tests/gpu` goes it on a GPU."""
    monkeypatch.setattr(products, "slow_dtypes", frozenset)
    check_that_grouped_products_give_the_same(monkeypatch, "cpu", has_lora)


def check_that_grouped_products_give_the_same(monkeypatch: pytest.MonkeyPatch, device: str, has_lora: bool) -> None:
    x, weight, lora = given(has_lora=has_lora, dtype=torch.bfloat16)
    results = []
    for is_grouped in (False, True):
        monkeypatch.setattr(expert_module, "_has_grouped_products", lambda _, answer=is_grouped: answer)
        moved = ExpertLora(lora.lora_a.to(device), lora.lora_b.to(device), lora.scale) if lora else None
        y = expert_linear(x.to(device), weight.to(device), ENDS.to(device), moved)
        target, varied = randn(16, 32, seed=6).to(device, y.dtype), [x, *(lora[:2] if lora else ())]
        results.append([y, *torch.autograd.grad((y * target).sum(), varied)])
    for grouped, one_by_one in zip(results[1], results[0], strict=True):
        assert (grouped - one_by_one).norm() <= 0.02 * one_by_one.norm()


def test_what_an_experts_adapter_adds_is_not_rounded_away() -> None:
    """As in `test_kernels`: it is far smaller here than a rounding of the output."""
    x, weight, ends = randn(2048, 64).bfloat16(), (randn(2, 96, 64, seed=1) / 8).bfloat16(), torch.tensor([900, 2048])
    a, b = (randn(2, 8, 64, seed=3) / 8).bfloat16(), (randn(2, 96, 8, seed=4) / 2**14).bfloat16()
    expert = (torch.arange(2048) >= 900).long()
    added = 2 * torch.einsum("si,sri,sor->so", x.double(), a.double()[expert], b.double()[expert])
    base = torch.einsum("si,soi->so", x.double(), weight.double()[expert])

    found = expert_linear(x, weight, ends.int(), ExpertLora(a.float(), b.float(), 2.0)).double() - base
    kept = (found * added).sum() / added.square().sum()
    assert abs(kept - 1) < 0.1


def test_a_mixture_is_the_weighted_sum_of_what_its_experts_make() -> None:
    hidden, weights = randn(5, 6).requires_grad_(), randn(5, 2, seed=1).requires_grad_()
    chosen, matrices = torch.tensor([[3, 0], [0, 1], [3, 1], [1, 0], [0, 3]]), randn(4, 6, 6, seed=2)
    y = mixture(
        hidden, chosen, weights, 4, lambda rows, experts, ends: expert_linear(rows, matrices, ends, None).tanh()
    )
    made = torch.einsum("th,tkoh->tko", hidden, matrices[chosen]).tanh()
    expected = (made * weights[..., None]).sum(1)
    torch.testing.assert_close(y, expected)
    target = randn(5, 6, seed=3)
    gradients = torch.autograd.grad((y * target).sum(), [hidden, weights])
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * target).sum(), [hidden, weights]))


@pytest.mark.parametrize(
    "model_type", ["mixtral", "qwen3_moe", "gpt_oss"]
)  # The last: biases, transposed, its own gate.
def test_a_models_experts_on_kernels_give_its_loss_and_gradients(tmp_path: Path, model_type: str) -> None:
    folder = write_base(model_type, tmp_path)
    results = []
    for fast in (False, True):
        model = load_base_model(folder, dtype=torch.float32, device="cpu")
        adapter = LoraAdapter.attach(model, LoraMethod(rank=4, target_modules=["q_proj"], target_parameters=STACKS))
        generator = torch.Generator().manual_seed(1)
        for parameter in adapter.parameters().values():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        if fast:
            before = [parameter.detach().clone() for parameter in adapter.parameters().values()]
            installed = fast_modules.install(model)
            assert [count for kind, count in installed.items() if kind.endswith("Experts")] == [2]
            assert all(map(torch.equal, adapter.parameters().values(), before))
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in adapter.parameters().values())])
        with adapter.disabled(), torch.no_grad():
            results[-1].append(model(input_ids=IDS).logits)
    for fast_one, plain_one in zip(results[1], results[0], strict=True):
        assert (fast_one - plain_one).norm() <= 1e-5 * plain_one.norm()


def test_no_expert_is_written_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_base_model(write_base("mixtral", tmp_path), dtype=torch.float32, device="cpu")
    adapter = LoraAdapter.attach(model, LoraMethod(rank=4, target_modules=["q_proj"], target_parameters=STACKS))
    fast_modules.install(model)
    for layer in adapter.experts.values():
        monkeypatch.setattr(layer, "adapted_weight", lambda _: pytest.fail("written out"))
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert all(layer.lora_b.grad is not None for layer in adapter.experts.values())


def test_experts_of_another_formula_keep_their_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_base_model(write_base("mixtral", tmp_path), dtype=torch.float32, device="cpu")
    LoraAdapter.attach(model, LoraMethod(rank=4, target_modules=["q_proj"], target_parameters=STACKS))
    experts = type(model.model.layers[0].mlp.experts)
    own = experts.forward
    monkeypatch.setattr(experts, "forward", lambda self, *inputs: 2 * own(self, *inputs))
    assert not any("Experts" in kind for kind in fast_modules.install(model))


def test_experts_without_an_adapter_are_left_alone_unless_their_products_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_base("mixtral", tmp_path)
    for slow, expected in ((set(), 0), ({torch.bfloat16}, 2)):
        monkeypatch.setattr(products, "slow_dtypes", lambda answer=slow: answer)
        model = load_base_model(folder, dtype=torch.bfloat16, device="cpu")
        LoraAdapter.attach(model, LoraMethod(rank=4, target_modules=["q_proj"]))
        assert fast_modules.install(model).get("MixtralExperts", 0) == expected
