"""A gated MLP with LoRA on its three linear layers, as one autograd node.

    forward    g = L_gate(x)    p = L_up(x)    h = φ(g) ∘ p    y = L_down(h)        L(x) = x Aᵀ (sB)ᵀ + x Wᵀ + b
    backward   dh = dL_down(ȳ)    dp = dh ∘ φ(g)    dg = dh ∘ p ∘ φ′(g)    dx = dL_gate(dg) + dL_up(dp)

It saves x, g and p; the plain graph also saves φ(g) and h, which take only two cheap element-wise passes to recompute.
Gate and up read the same x, so their matrices A are one product, and so are their gradients.
Shape letters:  T tokens,  H hidden,  I intermediate,  R rank.
Source: Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202; LoRA's gradients are those of `lora_linear`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune_hub.engine.kernels.frozen_weight import add_projection, dense
from finetune_hub.engine.kernels.fused import fused
from finetune_hub.engine.kernels.products import product_dtype

aten = torch.ops.aten


class Activation(NamedTuple):
    """φ and `(dφ, g) -> dg`; neither modifies its arguments."""

    forward: Callable[[Tensor], Tensor]
    backward: Callable[[Tensor, Tensor], Tensor]


ACTIVATIONS = {
    "silu": Activation(F.silu, lambda grad, g: aten.silu_backward(grad, g)),
    "gelu_tanh": Activation(
        lambda g: F.gelu(g, approximate="tanh"), lambda grad, g: aten.gelu_backward(grad, g, approximate="tanh")
    ),
    "gelu": Activation(F.gelu, lambda grad, g: aten.gelu_backward(grad, g)),
}


@fused
def _activate(g: Tensor, p: Tensor, activation: Activation) -> tuple[Tensor, Tensor]:
    """Return φ(g) and h."""
    activated = activation.forward(g)
    return activated, activated * p


@fused
def _activate_backward(
    grad_h: Tensor, activated: Tensor, g: Tensor, p: Tensor, activation: Activation
) -> tuple[Tensor, Tensor]:
    """Return dg and dp."""
    return activation.backward(grad_h * p, g), grad_h * activated


class LoraWeights(NamedTuple):
    """A linear layer and its adapter."""

    weight: Tensor  # (O, I), frozen or quantised
    bias: Tensor | None  # (O,), frozen
    lora_a: Tensor  # (R, I)
    lora_b: Tensor  # (O, R)
    scale: float


class LoraMlp(torch.autograd.Function):
    """y = L_down(φ(L_gate(x)) ∘ L_up(x)) with gradients for x and the six thin matrices."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (T, H)
        gate: LoraWeights,
        up: LoraWeights,
        down: LoraWeights,
        activation: Activation,
        *_trained: Tensor,  # A and B of gate, up and down again, as autograd sees only tensors that are arguments.
    ) -> Tensor:
        rank, dtype, kept = gate.lora_a.shape[0], product_dtype(x), x.dtype
        wide = x.to(dtype)
        u = wide @ torch.cat([gate.lora_a, up.lora_a]).to(dtype).t()  # (T, R of gate + R of up)
        g = _projected(wide, u[:, :rank], gate).to(kept)
        p = _projected(wide, u[:, rank:], up).to(kept)
        h = _activate(g, p, activation)[1].to(dtype)  # φ(g) is not saved.
        u_down = h @ down.lora_a.to(dtype).t()
        ctx.gate, ctx.up, ctx.down, ctx.activation = gate, up, down, activation
        ctx.save_for_backward(x, g, p, u.to(kept), u_down.to(kept))
        return _projected(h, u_down, down).to(kept)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, g, p, u, u_down = ctx.saved_tensors
        gate, up, down, rank = ctx.gate, ctx.up, ctx.down, ctx.gate.lora_a.shape[0]
        dtype, kept = product_dtype(x), x.dtype
        activated, h = _activate(g, p, ctx.activation)
        grad_y, u, u_down = grad_y.to(dtype), u.to(dtype), u_down.to(dtype)
        grad_u_down = _grad_u(grad_y, down)
        grad_a_down = grad_u_down.t() @ h.to(dtype)
        del h
        grad_h = (grad_u_down @ down.lora_a.to(dtype)).addmm_(grad_y, dense(down.weight, dtype)).to(kept)
        grad_g, grad_p = (grad.to(dtype) for grad in _activate_backward(grad_h, activated, g, p, ctx.activation))
        del activated, grad_h
        grad_u = torch.cat([_grad_u(grad_g, gate), _grad_u(grad_p, up)], dim=1)
        grad_a = grad_u.t() @ x.to(dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            a = torch.cat([gate.lora_a, up.lora_a]).to(dtype)
            grad_x = (grad_u @ a).addmm_(grad_g, dense(gate.weight, dtype)).addmm_(grad_p, dense(up.weight, dtype))
            grad_x = grad_x.to(kept)
        thin = (
            grad_a[:rank].to(gate.lora_a.dtype),
            _grad_b(grad_g, u[:, :rank], gate),
            grad_a[rank:].to(up.lora_a.dtype),
            _grad_b(grad_p, u[:, rank:], up),
            grad_a_down.to(down.lora_a.dtype),
            _grad_b(grad_y, u_down, down),
        )
        return grad_x, None, None, None, None, *thin


def lora_mlp(
    x: Tensor,  # (…, H)
    gate: LoraWeights,
    up: LoraWeights,
    down: LoraWeights,
    activation: Activation,
) -> Tensor:
    """Apply `LoraMlp` for any leading shape."""
    trained = [matrix for linear in (gate, up, down) for matrix in (linear.lora_a, linear.lora_b)]
    flat = x.reshape(-1, x.shape[-1])
    y: Tensor = LoraMlp.apply(flat, gate, up, down, activation, *trained)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], y.shape[-1])


def _projected(x: Tensor, u: Tensor, linear: LoraWeights) -> Tensor:
    """Return L(x), with the thin product first: see `lora_linear`."""
    return add_projection(u @ _scaled_b(linear, x.dtype).t(), x, linear.weight, linear.bias)


def _scaled_b(linear: LoraWeights, dtype: torch.dtype) -> Tensor:
    return (linear.lora_b * linear.scale).to(dtype)


def _grad_u(grad_y: Tensor, linear: LoraWeights) -> Tensor:
    return grad_y @ _scaled_b(linear, grad_y.dtype)


def _grad_b(grad_y: Tensor, u: Tensor, linear: LoraWeights) -> Tensor:
    return (grad_y.t() @ u).to(linear.lora_b.dtype).mul_(linear.scale)
