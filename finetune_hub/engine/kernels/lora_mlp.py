"""A gated MLP whose three linear layers carry LoRA, as one autograd node.

    forward    g = L_gate(x)    p = L_up(x)    h = φ(g) ∘ p    y = L_down(h)        L(x) = x Wᵀ + b + s · x Aᵀ Bᵀ
    backward   dh = dL_down(ȳ)    dp = dh ∘ φ(g)    dg = dh ∘ p ∘ φ′(g)    dx = dL_gate(dg) + dL_up(dp)

It saves x, g and p; the plain graph saves φ(g) and h as well, which are two cheap element-wise passes to make anew.
Gate and up read the same x: their matrices A are one product, and so are the gradients of both.
Shape letters:  T tokens,  H hidden,  I intermediate,  R rank.
Source: Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202; LoRA's gradients are those of `lora_linear`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune_hub.engine.kernels.frozen_weight import dense
from finetune_hub.engine.kernels.fused import fused

aten = torch.ops.aten


class Activation(NamedTuple):
    """φ and `(dφ, g) -> dg`; both leave their arguments alone."""

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
    """φ(g) and h."""
    activated = activation.forward(g)
    return activated, activated * p


@fused
def _activate_backward(
    grad_h: Tensor, activated: Tensor, g: Tensor, p: Tensor, activation: Activation
) -> tuple[Tensor, Tensor]:
    """dg and dp."""
    return activation.backward(grad_h * p, g), grad_h * activated


class LoraWeights(NamedTuple):
    """One linear layer and the adapter beside it."""

    weight: Tensor  # (O, I), frozen; or quantised
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
        *_trained: Tensor,  # A and B of gate, up and down once more: autograd sees only tensors passed by themselves.
    ) -> Tensor:
        rank = gate.lora_a.shape[0]
        a = torch.cat([gate.lora_a, up.lora_a]).to(x.dtype)
        u = x @ a.t()  # (T, R of gate + R of up)
        g = _with_lora(F.linear(x, dense(gate.weight, x.dtype), gate.bias), u[:, :rank], gate)
        p = _with_lora(F.linear(x, dense(up.weight, x.dtype), up.bias), u[:, rank:], up)
        h = _activate(g, p, activation)[1]  # φ(g) is not kept.
        u_down = h @ down.lora_a.to(x.dtype).t()
        ctx.gate, ctx.up, ctx.down, ctx.activation = gate, up, down, activation
        ctx.save_for_backward(x, g, p, u, u_down)
        return _with_lora(F.linear(h, dense(down.weight, h.dtype), down.bias), u_down, down)

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        x, g, p, u, u_down = ctx.saved_tensors
        gate, up, down, rank = ctx.gate, ctx.up, ctx.down, ctx.gate.lora_a.shape[0]
        activated, h = _activate(g, p, ctx.activation)
        grad_u_down = _grad_u(grad_y, down)
        grad_a_down = grad_u_down.t() @ h
        del h
        grad_h = (grad_y @ dense(down.weight, x.dtype)).addmm_(grad_u_down, down.lora_a.to(x.dtype))
        grad_g, grad_p = _activate_backward(grad_h, activated, g, p, ctx.activation)
        del activated, grad_h
        grad_u = torch.cat([_grad_u(grad_g, gate), _grad_u(grad_p, up)], dim=1)
        grad_a = grad_u.t() @ x
        grad_x = None
        if ctx.needs_input_grad[0]:
            a = torch.cat([gate.lora_a, up.lora_a]).to(x.dtype)
            grad_x = (grad_g @ dense(gate.weight, x.dtype)).addmm_(grad_p, dense(up.weight, x.dtype)).addmm_(grad_u, a)
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
    """`LoraMlp` over any leading shape."""
    trained = [matrix for linear in (gate, up, down) for matrix in (linear.lora_a, linear.lora_b)]
    flat = x.reshape(-1, x.shape[-1])
    y: Tensor = LoraMlp.apply(flat, gate, up, down, activation, *trained)  # type: ignore[no-untyped-call]
    return y.view(*x.shape[:-1], y.shape[-1])


def _with_lora(y: Tensor, u: Tensor, linear: LoraWeights) -> Tensor:
    """y + s · u Bᵀ, in y's place."""
    return y.addmm_(u, linear.lora_b.to(y.dtype).t(), alpha=linear.scale)


def _grad_u(grad_y: Tensor, linear: LoraWeights) -> Tensor:
    return (grad_y @ linear.lora_b.to(grad_y.dtype)).mul_(linear.scale)


def _grad_b(grad_y: Tensor, u: Tensor, linear: LoraWeights) -> Tensor:
    return (grad_y.t() @ u).to(linear.lora_b.dtype).mul_(linear.scale)
