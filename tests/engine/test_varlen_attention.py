"""Flash attention over all documents at once: chosen only where it can run, and called as torch wants it.

The kernel itself needs a GPU (`tests/gpu`); here its place is taken by the same formula in plain torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from finetune_hub.engine.kernels import document_attention as document_module
from finetune_hub.engine.kernels import varlen_attention as varlen_module
from finetune_hub.engine.kernels.block_attention import block_attention
from finetune_hub.engine.kernels.document_attention import AttentionPath, choose_path
from finetune_hub.engine.kernels.varlen_attention import can_run, is_proven, torchs_varlen_attn, varlen_attention
from tests.engine.conftest import MakeRun, events_of, train

CPU = torch.device("cpu")


def in_plain_torch(
    query: Tensor,  # (T, N, D)
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What torch documents of `varlen_attn`."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    lengths = cu_seq_q.diff().tolist()
    assert max_q == max_k == max(lengths)
    assert enable_gqa or query.shape[1] == key.shape[1]
    outputs = []
    for start, stop in pairwise(cu_seq_q.tolist()):
        q, k, v = (tensor[start:stop].transpose(0, 1)[None] for tensor in (query, key, value))
        causal = window_size == (-1, 0)
        out = scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=enable_gqa)
        outputs.append(out[0].transpose(0, 1))
    return torch.cat(outputs)


def leaking(
    query: Tensor, key: Tensor, value: Tensor, cu_q: Tensor, cu_k: Tensor, *rest: int, **options: Any
) -> Tensor:
    """As if all were one document."""
    whole = cu_q[[0, -1]]
    return in_plain_torch(query, key, value, whole, whole, len(query), len(query), **options)


def with_halved_gradients(*args: Any, **options: Any) -> Tensor:
    output = in_plain_torch(*args, **options)
    return (output + output.detach()) / 2


def not_built(*_: Any, **__: Any) -> Tensor:
    raise NotImplementedError("Could not run 'aten::_flash_attention_forward'")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[..., Tensor]], None]]:
    """Puts a function in the place of torch's."""
    is_proven.cache_clear()
    yield lambda function: monkeypatch.setattr(varlen_module, "torchs_varlen_attn", lambda: function)
    is_proven.cache_clear()


@pytest.mark.parametrize("key_heads", [2, 4])
def test_it_is_isolated_causal_attention(stand_in: Any, key_heads: int) -> None:
    stand_in(in_plain_torch)
    bounds = (0, 2, 7, 8, 9)
    given = [
        torch.randn(heads, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
        for seed, heads in enumerate((4, key_heads, key_heads))
    ]
    actual, expected = varlen_attention(*given, 0.3, bounds), block_attention(*given, 0.3, bounds, None)
    torch.testing.assert_close(actual, expected)
    gradients = [torch.autograd.grad(output.cos().sum(), given) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_a_model_on_this_path_trains_as_on_any_other(
    stand_in: Any, make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(in_plain_torch)
    runs = [make_run(max_steps=3, run={"output_dir": tmp_path / name}) for name in ("blocks", "one call")]
    train(runs[0])
    monkeypatch.setattr(document_module, "choose_path", lambda *_, **__: AttentionPath.ONE_CALL)
    train(runs[1])
    losses = [[event.loss for event in events_of(run.output_dir, "step")] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    said = [event.message for event in events_of(runs[1].output_dir, "log")]
    assert "Attention: flash attention, one call for all documents." in said


@pytest.mark.parametrize(
    ("function", "agrees"),
    [(in_plain_torch, True), (leaking, False), (with_halved_gradients, False), (not_built, False)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_only_a_kernel_that_computes_the_same_is_used(
    stand_in: Any, function: Callable[..., Tensor], agrees: bool, dtype: torch.dtype
) -> None:
    stand_in(function)
    with torch.no_grad():
        assert is_proven(CPU, dtype, 4, 2, 16) is agrees


def test_the_installed_torch_takes_the_call() -> None:
    """On the meta device: torch checks arguments and shapes, and computes nothing."""
    if torchs_varlen_attn() is None:
        pytest.skip(f"torch {torch.__version__} has no varlen_attn with scales, windows and grouped queries")
    given = [torch.empty(heads, 9, 16, dtype=torch.bfloat16, device="meta", requires_grad=True) for heads in (4, 2, 2)]
    output = varlen_attention(*given, 0.3, (0, 2, 9))
    assert output.shape == (9, 4, 16)
    gradients = torch.autograd.grad(output.sum(), given)
    assert [gradient.shape for gradient in gradients] == [tensor.shape for tensor in given]


def test_an_older_torchs_function_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_torch_2_10(query: Any, key: Any, value: Any, cu_seq_q: Any, cu_seq_k: Any, max_q: int, max_k: int) -> None:
        raise AssertionError

    older = ModuleType("torch.nn.attention.varlen")
    older.varlen_attn = of_torch_2_10  # type: ignore[attr-defined]
    for module in (older, None):
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)  # type: ignore[arg-type]
        torchs_varlen_attn.cache_clear()
        assert torchs_varlen_attn() is None
    torchs_varlen_attn.cache_clear()


def test_the_cpu_cannot_run_it() -> None:
    query = torch.empty(1, 4, 9, 16, dtype=torch.bfloat16)
    assert not can_run(query, query, query)


@pytest.mark.parametrize(
    ("device", "options", "path"),
    [
        ("cpu", {}, AttentionPath.ONE_BY_ONE),
        ("cpu", {"learns": True}, AttentionPath.BLOCKS),
        ("cpu", {"learns": True, "dropout": 0.1}, AttentionPath.ONE_BY_ONE),
        ("meta", {}, AttentionPath.ONE_CALL),  # Stands for a GPU that can.
        ("meta", {"learns": True}, AttentionPath.ONE_CALL),
        ("meta", {"dropout": 0.1}, AttentionPath.ONE_BY_ONE),
        ("meta", {"window": 5}, AttentionPath.ONE_CALL),
        ("meta", {"window": 4}, AttentionPath.ONE_BY_ONE),
        ("meta", {"prefix": 3}, AttentionPath.BEHIND_PREFIX),
        ("meta", {"can_run": False}, AttentionPath.ONE_BY_ONE),
    ],
    ids=str,
)
def test_the_path_is_chosen_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch, device: str, options: dict[str, Any], path: AttentionPath
) -> None:
    monkeypatch.setattr(document_module, "can_run", lambda *_: options.get("can_run", True))
    query = torch.empty(1, 4, 9, 16, device=device)
    key = torch.empty(1, 2, 9 + options.get("prefix", 0), 16, device=device)
    chosen = choose_path(
        query,
        key,
        key,
        (0, 5, 9),
        options.get("dropout", 0.0),
        options.get("window"),
        learns=options.get("learns", False),
    )
    assert chosen is path
