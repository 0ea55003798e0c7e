"""On a processor without products of 16-bit numbers ours are in float32, and what they give is rounded to 16 bits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from finetune_hub.engine import library
from finetune_hub.engine.dataset import TokenRow
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.kernels import products
from finetune_hub.engine.kernels.products import product_dtype
from finetune_hub.engine.model import prove_fast_paths
from finetune_hub.engine.objectives.objective import Setting, backward
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.spec.methods.low_rank import LoraMethod, QloraMethod
from finetune_hub.spec.methods.method import Method
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod, PromptTuningMethod

PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"}
METHODS: dict[str, Method] = {
    "lora": LoraMethod(),
    "lora on attention alone": LoraMethod(target_modules=["q_proj", "v_proj"]),
    "dora": LoraMethod(use_dora=True),
    "qlora": QloraMethod(),
    "prefix tuning": PrefixTuningMethod(virtual_tokens=4),
    "prompt tuning": PromptTuningMethod(virtual_tokens=4),
}


@pytest.fixture(params=[torch.bfloat16, torch.float16], ids=str)
def without_fast_products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """A processor of that kind, whatever this one is; gives the 16-bit dtype."""
    monkeypatch.setattr(products, "slow_dtypes", lambda: {torch.bfloat16, torch.float16})
    dtype: torch.dtype = request.param
    return dtype


class CountProducts(TorchDispatchMode):
    """Counts the matrix products inside by the dtype of their factors."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[torch.dtype] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name in PRODUCTS:
            self.counted[args[-1].dtype] += 1
        assert "scaled_dot_product" not in name or args[0].dtype == torch.float32  # It holds products too.
        return func(*args, **(kwargs or {}))


def rows() -> list[TokenRow]:
    generator = torch.Generator().manual_seed(0)
    lengths = (9, 5, 14)
    return [
        TokenRow("row", torch.randint(5, 60, (length,), generator=generator).int(), torch.arange(length - 1).int(), 0)
        for length in lengths
    ]


def gradients(folder: Path, method: Method, dtype: torch.dtype) -> tuple[torch.Tensor, Counter[torch.dtype]]:
    """All gradients of one micro batch in one vector, and the products that they took."""
    model = library.load(folder, dtype=dtype, quantization=getattr(method, "quantization", None))
    adapter = library.apply(model, method, seed=3)
    trained = list(adapter.parameters().values())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    paths = prove_fast_paths(model)
    fast_modules.install(model)
    model.train()
    with CountProducts() as seen:
        backward(Sft(Setting(model, paths)), rows(), 25)
    return torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None]), seen.counted


@pytest.mark.parametrize("name", METHODS)
def test_no_product_of_a_step_is_in_16_bits(
    base_model_dir: Path, without_fast_products: torch.dtype, name: str
) -> None:
    method = METHODS[name]
    exact, _ = gradients(base_model_dir, method, torch.float32)
    ours, counted = gradients(base_model_dir, method, without_fast_products)
    assert set(counted) == {torch.float32}
    # QLoRA's weights are packed from other numbers in each dtype.
    tolerance = 0.1 if isinstance(method, QloraMethod) else 8 * torch.finfo(without_fast_products).eps
    assert (ours.float() - exact).norm() <= tolerance * exact.norm()


def test_a_processor_with_them_is_left_to_multiply_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "slow_dtypes", frozenset)
    assert product_dtype(torch.ones(1, dtype=torch.bfloat16)) == torch.bfloat16


def test_float32_and_float64_stay_themselves() -> None:
    for dtype in (torch.float32, torch.float64):
        assert dtype not in products.slow_dtypes()
        assert product_dtype(torch.ones(1, dtype=dtype)) == dtype
