"""The hand-written kernels give torch's values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from finetune_hub.engine.kernels import linear_cross_entropy as cross_entropy_module
from finetune_hub.engine.kernels.document_attention import UnsupportedAttention, document_attention, documents
from finetune_hub.engine.kernels.linear_cross_entropy import linear_cross_entropy
from finetune_hub.engine.kernels.lora_linear import lora_linear


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_lora_linear_equals_its_formula(dropout: bool, has_bias: bool) -> None:
    x, weight, mask = randn(2, 5, 6).requires_grad_(), randn(7, 6, seed=1), randn(2, 5, 6, seed=2) > 0
    bias = randn(7, seed=3) if has_bias else None
    a, b = randn(3, 6, seed=4).requires_grad_(), randn(7, 3, seed=5).requires_grad_()

    y = lora_linear(x, x * mask if dropout else None, weight, bias, a, b, 0.5)
    expected = F.linear(x, weight, bias) + 0.5 * F.linear(F.linear(x * mask if dropout else x, a), b)

    torch.testing.assert_close(y, expected)
    target = randn(2, 5, 7, seed=6)
    gradients = torch.autograd.grad((y * target).sum(), [x, a, b])
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * target).sum(), [x, a, b]))


def test_lora_linear_makes_no_gradient_below_the_first_adapter() -> None:
    x, a, b = randn(4, 6), randn(3, 6).requires_grad_(), randn(7, 3).requires_grad_()
    lora_linear(x, None, randn(7, 6), None, a, b, 1.0).sum().backward()
    assert x.grad is None
    assert a.grad is not None


@pytest.mark.parametrize("has_bias", [False, True])
def test_chunked_cross_entropy_equals_torchs(monkeypatch: pytest.MonkeyPatch, has_bias: bool) -> None:
    monkeypatch.setattr(cross_entropy_module, "CHUNK_ROWS", 4)
    hidden, weight = randn(11, 6).float().requires_grad_(), randn(20, 6, seed=1).float()
    bias = randn(20, seed=2).float() if has_bias else None
    targets = torch.arange(11)

    loss = linear_cross_entropy(hidden, weight, bias, targets)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="sum")

    torch.testing.assert_close(loss, expected)
    gradient = torch.autograd.grad(loss / 3, hidden)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected / 3, hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
def test_documents_attend_to_themselves_alone(window: int | None) -> None:
    query, key, value = randn(1, 4, 9, 8), randn(1, 2, 9, 8, seed=1), randn(1, 2, 9, 8, seed=2)
    with documents((2, 5, 2)):
        packed, _ = document_attention(torch.nn.Module(), query, key, value, None, scaling=0.3, sliding_window=window)

    keys, values = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
    position = torch.arange(9)
    document = torch.tensor([0, 0, 1, 1, 1, 1, 1, 2, 2])
    distance = position[:, None] - position
    mask = (document[:, None] == document) & (distance >= 0) & (distance < (window or 9))
    weights = (0.3 * query @ keys.transpose(2, 3)).masked_fill(~mask, -torch.inf).softmax(-1)
    torch.testing.assert_close(packed, (weights @ values).transpose(1, 2))


def test_attention_with_parts_of_its_own_is_refused() -> None:
    q = randn(1, 1, 3, 4)
    with pytest.raises(UnsupportedAttention, match="softcap"):
        document_attention(torch.nn.Module(), q, q, q, None, softcap=30.0)
