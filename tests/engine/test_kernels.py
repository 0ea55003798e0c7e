"""The hand-written kernels give torch's values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers.models.llama import modeling_llama

from finetune_hub.engine.kernels import linear_cross_entropy as cross_entropy_module
from finetune_hub.engine.kernels import padded_documents
from finetune_hub.engine.kernels.block_attention import block_attention, sees
from finetune_hub.engine.kernels.document_attention import UnsupportedAttention, document_attention, documents
from finetune_hub.engine.kernels.linear_cross_entropy import linear_cross_entropy
from finetune_hub.engine.kernels.lora_linear import lora_linear
from finetune_hub.engine.kernels.lora_mlp import ACTIVATIONS, LoraWeights, lora_mlp
from finetune_hub.engine.kernels.rms_norm import frozen_rms_norm
from finetune_hub.engine.kernels.rotary import apply_rotary_pos_emb


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("has_bias", [False, True])
def test_what_an_adapter_adds_is_not_rounded_away(dtype: torch.dtype, has_bias: bool) -> None:
    """It is far smaller here than a rounding of the output: added after that rounding, most of it would go."""
    x, weight = randn(512, 64).to(dtype), (randn(96, 64, seed=1) / 8).to(dtype)
    bias = randn(96, seed=2).to(dtype) if has_bias else None
    a, b = (randn(8, 64, seed=3) / 8).to(dtype), (randn(96, 8, seed=4) * torch.finfo(dtype).eps / 64).to(dtype)
    added = 2 * x.double() @ a.double().t() @ b.double().t()
    base = F.linear(x.double(), weight.double(), None if bias is None else bias.double())

    found = lora_linear(x, None, weight, bias, a.float(), b.float(), 2.0).double() - base
    kept = (found * added).sum() / added.square().sum()
    assert abs(kept - 1) < 0.1


@pytest.mark.parametrize("has_bias", [False, True])
def test_chunked_cross_entropy_equals_torchs(monkeypatch: pytest.MonkeyPatch, has_bias: bool) -> None:
    monkeypatch.setattr(cross_entropy_module, "LEAST_ROWS", 4)
    monkeypatch.setattr(cross_entropy_module, "CHUNK_NUMBERS", 1)
    hidden, weight = randn(11, 6).float().requires_grad_(), randn(20, 6, seed=1).float()
    bias = randn(20, seed=2).float() if has_bias else None
    targets = torch.arange(11)

    losses = linear_cross_entropy(hidden, weight, bias, targets)
    expected = F.cross_entropy(F.linear(hidden, weight, bias), targets, reduction="none")

    torch.testing.assert_close(losses, expected)
    shares = torch.linspace(-1, 2, 11)  # As an objective may weigh its rows.
    gradient = torch.autograd.grad(losses @ shares, hidden)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected @ shares, hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads_dim", [1, 2])
def test_rotary_positions_equal_transformers(heads_dim: int) -> None:
    q, k = randn(2, 5, 5, 8).requires_grad_(), randn(2, 5, 5, 8, seed=1).requires_grad_()
    cos, sin = randn(2, 5, 8, seed=2), randn(2, 5, 8, seed=3)
    rotated = apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=heads_dim)
    expected = modeling_llama.apply_rotary_pos_emb(q, k, cos, sin, unsqueeze_dim=heads_dim)
    torch.testing.assert_close(rotated, expected)
    target = randn(2, 5, 5, 8, seed=4)
    gradients = torch.autograd.grad([(heads * target).sum() for heads in rotated], [q, k])
    torch.testing.assert_close(gradients, torch.autograd.grad([(heads * target).sum() for heads in expected], [q, k]))


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


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_label_smoothing_equals_torchs(smoothing: float) -> None:
    hidden, weight = randn(11, 6).float().requires_grad_(), randn(20, 6, seed=1).float()
    targets = torch.arange(11)
    losses = linear_cross_entropy(hidden, weight, None, targets, smoothing)
    expected = F.cross_entropy(F.linear(hidden, weight), targets, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(losses, expected)
    gradient = torch.autograd.grad(losses.sum(), hidden)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("block_queries", [2, 128])
def test_block_attention_equals_torchs_in_value_and_gradient(
    monkeypatch: pytest.MonkeyPatch, window: int | None, block_queries: int
) -> None:
    monkeypatch.setattr(padded_documents, "BLOCK_QUERIES", block_queries)
    padded_documents.padded_documents.cache_clear()
    q, k, v = (randn(heads, 9, 8, seed=seed).requires_grad_() for seed, heads in enumerate((4, 2, 2)))
    before = [tensor.detach().clone() for tensor in (q, k, v)]
    output = block_attention(q, k, v, 0.3, (0, 2, 7, 9), window)

    document = torch.tensor([0, 0, 1, 1, 1, 1, 1, 2, 2])
    mask = (document[:, None] == document) & sees(9, 9, window, torch.device("cpu"))
    expected = F.scaled_dot_product_attention(q[None], k[None], v[None], mask, scale=0.3, enable_gqa=True)[0]
    expected = expected.transpose(0, 1)
    torch.testing.assert_close(output, expected)
    weights = randn(9, 4, 8, seed=5)
    gradients = torch.autograd.grad((output * weights).sum(), [q, k, v])
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weights).sum(), [q, k, v]))
    torch.testing.assert_close([q.detach(), k.detach(), v.detach()], before, rtol=0, atol=0)


def test_frozen_rms_norm_equals_torchs() -> None:
    x, weight = randn(2, 5, 6).requires_grad_(), randn(6, seed=1)
    before = x.detach().clone()
    y, expected = frozen_rms_norm(x, weight, 1e-5), F.rms_norm(x, (6,), weight, 1e-5)
    torch.testing.assert_close(y, expected)
    target = randn(2, 5, 6, seed=2)
    gradient = torch.autograd.grad((y * target).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * target).sum(), x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_lora_mlp_equals_its_formula(activation: str, has_bias: bool) -> None:
    x = randn(2, 5, 6).requires_grad_()

    def linear(out_features: int, in_features: int, rank: int, seed: int) -> LoraWeights:
        a, b = randn(rank, in_features, seed=seed).requires_grad_(), randn(out_features, rank, seed=seed + 1)
        bias = randn(out_features, seed=seed + 2) if has_bias else None
        return LoraWeights(randn(out_features, in_features, seed=seed + 3), bias, a, b.requires_grad_(), 0.5)

    gate, up, down = linear(8, 6, 2, 10), linear(8, 6, 3, 20), linear(6, 8, 2, 30)
    known = ACTIVATIONS[activation]
    y = lora_mlp(x, gate, up, down, known)

    def plain(layer: LoraWeights, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, layer.weight, layer.bias) + 0.5 * F.linear(F.linear(x, layer.lora_a), layer.lora_b)

    expected = plain(down, known.forward(plain(gate, x)) * plain(up, x))
    torch.testing.assert_close(y, expected)
    target = randn(2, 5, 6, seed=2)
    trained = [x, *(matrix for layer in (gate, up, down) for matrix in (layer.lora_a, layer.lora_b))]
    gradients = torch.autograd.grad((y * target).sum(), trained, retain_graph=True)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * target).sum(), trained))
    # What was saved is as it was: a second backward gives the same.
    torch.testing.assert_close(torch.autograd.grad((y * target).sum(), trained), gradients, rtol=0, atol=0)
