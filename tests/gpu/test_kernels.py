"""Kernels that only a GPU has give what the plain formulas give there, and a run says which of them it took."""

from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from finetune_hub.engine.kernels import document_attention as document_module
from finetune_hub.engine.kernels import expert_linear, fused
from finetune_hub.engine.kernels.document_attention import AttentionPath, choose_path, document_attention, documents
from finetune_hub.engine.kernels.varlen_attention import torchs_varlen_attn
from tests.engine.conftest import MakeRun, events_of, train
from tests.engine.test_experts import check_that_grouped_products_give_the_same
from tests.engine.test_fused import calls, check_that_it_computes_what_it_says
from tests.engine.test_training_options import with_parts

LENGTHS = (130, 1, 64, 317)
BOUNDS = (0, *accumulate(LENGTHS))


def _needs_flash_attention() -> None:
    if torchs_varlen_attn() is None:
        pytest.skip(f"torch {torch.__version__} has no varlen_attn with scales, windows and grouped queries")
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("flash attention needs a GPU of compute capability 8.0")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("heads", "key_heads", "head_dim"), [(32, 8, 64), (16, 16, 128), (9, 3, 64), (4, 1, 96)])
def test_one_call_equals_one_call_a_document(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, heads: int, key_heads: int, head_dim: int
) -> None:
    _needs_flash_attention()
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(1, sum(LENGTHS), count, head_dim, generator=generator).to("cuda", dtype).transpose(1, 2)
        for count in (heads, key_heads, key_heads)
    ]
    given = [tensor.requires_grad_() for tensor in given]
    weights = torch.randn(1, sum(LENGTHS), heads, head_dim, generator=generator).to("cuda")
    results = []
    for path in (AttentionPath.ONE_CALL, AttentionPath.ONE_BY_ONE):
        if path is AttentionPath.ONE_BY_ONE:
            monkeypatch.setattr(document_module, "can_run", lambda *_: False)
        assert choose_path(*given, BOUNDS, 0.0, None, learns=True) is path
        with documents(LENGTHS):
            output, _ = document_attention(torch.nn.Module(), *given, None, scaling=0.11)
        results.append([output, *torch.autograd.grad((output.float() * weights).sum(), given)])
    for actual, expected in zip(*results, strict=True):
        assert (actual.float() - expected.float()).norm() <= 4 * torch.finfo(dtype).eps * expected.float().norm()


@pytest.mark.parametrize(
    ("dtype", "path"),
    [("bfloat16", AttentionPath.ONE_CALL), ("float32", AttentionPath.ONE_BY_ONE)],
    ids=["bfloat16", "float32"],
)
def test_a_run_says_how_attention_was_computed(make_run: MakeRun, dtype: str, path: AttentionPath) -> None:
    _needs_flash_attention()
    run = with_parts(make_run(max_steps=1, run={"device": "cuda"}), runtime={"dtype": dtype})
    train(run)
    said = [event.message for event in events_of(run.output_dir, "log")]
    assert f"Attention: {path}." in said
    assert "Element-wise work: fused by torch.compile." in said


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", calls(3, torch.float32))
def test_a_fused_function_computes_what_it_says(name: str, dtype: torch.dtype) -> None:
    reason = fused.why_not(torch.device("cuda"))
    if reason is not None:
        pytest.skip(reason)
    torch._dynamo.reset()
    check_that_it_computes_what_it_says(name, dtype, "cuda")


@pytest.mark.parametrize("has_lora", [False, True])
def test_grouped_products_of_experts_give_the_same(monkeypatch: pytest.MonkeyPatch, has_lora: bool) -> None:
    if not expert_linear._has_grouped_products(torch.device("cuda")):
        pytest.skip("torch's grouped products need torch 2.10 and a GPU of compute capability 8.0")
    check_that_grouped_products_give_the_same(monkeypatch, "cuda", has_lora)
