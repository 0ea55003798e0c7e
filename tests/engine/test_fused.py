"""What is fused on a GPU gives the same numbers: proven here with torch.compile for the CPU, where it is off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from finetune_hub.engine.kernels import fused, linear_cross_entropy, lora_mlp, rms_norm, rotary


@pytest.fixture
def _fuse_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and this machine has none")
    monkeypatch.setattr(fused, "_FUSING_DEVICES", {"cpu"})
    fused.why_not.cache_clear()
    torch._dynamo.reset()
    yield
    fused.why_not.cache_clear()
    torch._dynamo.reset()


Calls = dict[str, tuple[Any, tuple[Any, ...]]]


def calls(
    tokens: int,
    dtype: torch.dtype,
    device: str = "cpu",
    *,
    width: int = 16,
    vocabulary: int = 40,
    heads: int = 3,
    head_dim: int = 8,
) -> Calls:
    """Every fused function with arguments for so many tokens."""

    def randn(*shape: int, seed: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)

    a, b, c, d = (randn(tokens, width, seed=seed) for seed in range(4))
    weight, logits = randn(width, seed=5), randn(tokens, vocabulary, seed=6)
    exact = logits if dtype == torch.float32 else torch.empty_like(logits, dtype=torch.float32)
    targets, inverse_rms = (
        torch.arange(tokens, device=device) % vocabulary,
        randn(tokens, 1, seed=7).float().abs() + 0.5,
    )
    x = randn(1, tokens, heads, head_dim, seed=8).transpose(1, 2)
    angles = randn(1, 1, tokens, head_dim, seed=9), randn(1, 1, tokens, head_dim, seed=10)
    activations = lora_mlp.ACTIVATIONS
    return {
        "norm": (rms_norm._normed, (a, weight, 1e-5)),
        "norm backward": (rms_norm._grad_x, (a, b, weight, inverse_rms)),
        "rotary": (rotary._rotated, (x, *angles)),
        "rotary backward": (rotary._rotated_back, (x, *angles)),
        "loss": (linear_cross_entropy._chunk_losses, (logits, exact, None, targets, 0.0)),
        "smoothed loss": (
            linear_cross_entropy._chunk_losses,
            (logits, exact, weight[:1].expand(vocabulary), targets, 0.1),
        ),
        **{name: (lora_mlp._activate, (a, b, known)) for name, known in activations.items()},
        **{
            f"{name} backward": (lora_mlp._activate_backward, (a, b, c, d, known))
            for name, known in activations.items()
        },
    }


@torch.no_grad()
def check_that_it_computes_what_it_says(name: str, dtype: torch.dtype, device: str) -> None:
    """Over ragged lengths, in one graph that is compiled once."""
    torch._dynamo.utils.counters.clear()
    for tokens in (7, 12, 33):
        function, arguments = calls(tokens, dtype, device)[name]
        actual = function(*arguments)
        others = calls(tokens, dtype, device)[name][1]  # Afresh: some arguments are written over.
        expected = function.__wrapped__(*others)
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
        for written, other in zip(arguments, others, strict=True):
            if isinstance(written, Tensor):
                torch.testing.assert_close(written, other, rtol=tolerance, atol=tolerance)
    counted = torch._dynamo.utils.counters
    assert not counted["graph_break"]
    assert counted["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("_fuse_on_the_cpu")
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.full)], ids=str)
@pytest.mark.parametrize("name", calls(3, torch.float32))
def test_a_fused_function_computes_what_it_says(name: str, dtype: torch.dtype) -> None:
    assert fused.why_not(torch.device("cpu")) is None
    check_that_it_computes_what_it_says(name, dtype, "cpu")


def test_every_fused_function_is_among_them() -> None:
    marked = rms_norm._normed.__code__  # All have the code of `fused`'s own inner function.
    folder = Path(fused.__file__).parent
    modules = [import_module(f"finetune_hub.engine.kernels.{path.stem}") for path in folder.glob("*.py")]
    found = {
        value for module in modules for value in vars(module).values() if getattr(value, "__code__", None) is marked
    }
    assert found == {function for function, _ in calls(3, torch.float32).values()}


def test_nothing_is_compiled_on_a_cpu() -> None:
    assert fused.why_not(torch.device("cpu")) == "it is on the CPU"


@pytest.mark.usefixtures("_fuse_on_the_cpu")
def test_without_a_compiler_functions_run_as_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: missing)
    assert fused.why_not(torch.device("cpu")) == "torch.compile fails here: Failed to find C compiler."
    x, weight = torch.linspace(-1, 1, 48).view(3, 16), torch.ones(16)
    torch.testing.assert_close(rms_norm.frozen_rms_norm(x, weight, 1e-5), F.rms_norm(x, (16,), weight, 1e-5))
