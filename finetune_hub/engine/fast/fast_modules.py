"""Run modules of the base model on our kernels, each kind only after it was verified on this model.

A kind is a class with the shapes of its weights. The first module of a kind runs with its own code and on the kernel,
with random inputs: output and all gradients must agree within a few roundings of the dtype. If they don't (another
formula, a hook, an adapter that is not plain LoRA), that kind keeps its own code, which is only slower.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.lora_layers import LoraLinear
from finetune_hub.engine.fast import fast_experts
from finetune_hub.engine.kernels import fused
from finetune_hub.engine.kernels.frozen_linear import frozen_linear
from finetune_hub.engine.kernels.frozen_weight import dtype_of, shape_of
from finetune_hub.engine.kernels.lora_mlp import ACTIVATIONS, Activation, LoraWeights, lora_mlp
from finetune_hub.engine.kernels.products import product_dtype
from finetune_hub.engine.kernels.rms_norm import frozen_rms_norm
from finetune_hub.engine.kernels.rotary import apply_rotary_pos_emb
from finetune_hub.engine.model import output_head

Forward = Callable[..., Tensor]
_ROTARY = apply_rotary_pos_emb.__name__
_PROOF_TOKENS = 6
_ROUNDINGS = 16  # Roundings of the dtype, relative to the norm of the whole tensor.


def install(model: PreTrainedModel) -> dict[str, int]:
    """Install the kernels in every module whose kind passes verification, in place.

    Call it with the adapter attached, as a kernel uses the adapter's matrices.

    Returns:
        The number of modules per class that run on a kernel.
    """
    installed: dict[str, int] = {}
    proven: dict[Any, bool] = {}
    head = output_head(model)
    for module in model.modules():
        fast = _rms_norm(module) or _gated_mlp(module) or fast_experts.forward_of(module)
        if fast is None and module is not head:
            fast = _plain_linear(module)
        if fast is None:
            continue
        module_class = type_before_parametrizations(module)  # An adapter on a parameter creates its own class.
        kind = (module_class, *(parameter.shape for parameter in module.parameters()))
        if kind not in proven:
            proven[kind] = _agrees(module, fast)
        if proven[kind]:
            module.forward = fast
            installed[module_class.__name__] = installed.get(module_class.__name__, 0) + 1
    if fused.why_not(model.device) is None:  # No gain otherwise.
        install_rotary(model)
    return installed


def install_rotary(model: PreTrainedModel) -> bool:
    """Install the kernel for rotary positions in the model's attention; return whether it passed verification.

    Attention looks up that function by name in its family's module, so all models of the family in this process use it.
    """
    files = {sys.modules[type(module).__module__] for module in model.modules()}
    proven = [file for file in files if _rotates_alike(getattr(file, _ROTARY, None), model)]
    for file in proven:
        setattr(file, _ROTARY, apply_rotary_pos_emb)
    return bool(proven)


def _rotates_alike(plain: Callable[..., tuple[Tensor, Tensor]] | None, model: PreTrainedModel) -> bool:
    """Return whether the kernel's outputs and gradients equal this function's on random inputs."""
    if plain is None or signature(plain).parameters.keys() != signature(apply_rotary_pos_emb).parameters.keys():
        return False
    generator = torch.Generator().manual_seed(0)
    q, k, cos, sin = (
        torch.randn(shape, generator=generator).to(model.device, model.dtype)
        for shape in ((1, 4, _PROOF_TOKENS, 8), (1, 2, _PROOF_TOKENS, 8), (1, _PROOF_TOKENS, 8), (1, _PROOF_TOKENS, 8))
    )
    results = []
    for rotary in (apply_rotary_pos_emb, plain):
        inputs = q.clone().requires_grad_(), k.clone().requires_grad_()
        with torch.enable_grad():
            rotated = rotary(*inputs, cos, sin)
            squares = [heads.square().sum() for heads in rotated]
        results.append([*rotated, *torch.autograd.grad(squares, inputs)])
    try:
        plain(q, k, cos[..., :4], sin[..., :4])
    except RuntimeError:
        return _all_close(*results)
    return False  # It can rotate only part of each head.


def _rms_norm(module: nn.Module) -> Forward | None:
    """Return the kernel for a norm with one frozen vector and an epsilon with one of its two usual names."""
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not isinstance(weight, Tensor) or weight.dim() != 1 or weight.requires_grad or not isinstance(epsilon, float):
        return None
    if len(list(module.parameters())) > 1 or "RMSNorm" not in type(module).__name__:
        return None
    # Read the weight on each call: a sharded base model gathers it for each pass.
    return lambda x: frozen_rms_norm(x, cast(Tensor, module.weight), epsilon)


def _plain_linear(module: nn.Module) -> Forward | None:
    """Return the kernel for a frozen linear layer without an adapter, if its products use another dtype."""
    if (
        type(module) is not nn.Linear
        or module.weight.requires_grad
        or product_dtype(module.weight) == module.weight.dtype
    ):
        return None
    return lambda x: frozen_linear(x, module.weight, module.bias)


def _gated_mlp(module: nn.Module) -> Forward | None:
    """Return the kernel for an MLP of gate, up and down projections, each with plain LoRA."""
    children = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    linears = [child for child in children if isinstance(child, LoraLinear) and _is_plain(child)]
    act = getattr(module, "act_fn", None)
    if len(linears) < len(children) or not isinstance(act, nn.Module):
        return None
    activation = _activation(act)
    return None if activation is None else partial(_run_gated_mlp, module, linears, activation, type(module).forward)


def _is_plain(linear: LoraLinear) -> bool:
    """Return whether it is plain LoRA without dropout, on a weight stored as (O, I) or packed from it."""
    return type(linear) is LoraLinear and linear.dropout == 0 and not linear.is_transposed


def _run_gated_mlp(
    module: nn.Module, linears: list[LoraLinear], activation: Activation, plain: Callable[..., Tensor], x: Tensor
) -> Tensor:
    if not all(linear.enabled for linear in linears):
        return plain(module, x)
    gate, up, down = (LoraWeights(linear.weight, linear.bias, *linear.factors(), linear.scale) for linear in linears)
    return lora_mlp(x, gate, up, down, activation)


def _activation(act: nn.Module) -> Activation | None:
    """Return the known activation that computes the same as this module."""
    points = torch.linspace(-6, 6, 49)
    for known in ACTIVATIONS.values():
        if torch.allclose(act(points), known.forward(points), atol=1e-6):
            return known
    return None


def _agrees(module: nn.Module, fast: Forward) -> bool:
    """Return whether the kernel's output and gradients equal the module's on random inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = fast_experts.proof_inputs(module, _PROOF_TOKENS, generator) or _proof_inputs(module, generator)
    with torch.enable_grad(), _random_matrices(module, generator), fast_experts.without_adapters(module):
        expected = _output_and_gradients(module, module.forward, inputs)
        actual = _output_and_gradients(module, fast, inputs)
    return _all_close(actual, expected)


def _proof_inputs(module: nn.Module, generator: torch.Generator) -> tuple[Tensor, ...]:
    weight = next(parameter for parameter in module.parameters() if not parameter.requires_grad)
    width = weight.shape[0] if weight.dim() == 1 else shape_of(weight)[1]
    return (torch.randn(1, _PROOF_TOKENS, width, generator=generator).to(weight.device, dtype_of(weight)),)


def _all_close(actual: list[Tensor], expected: list[Tensor]) -> bool:
    """Return whether the tensors agree within a few roundings of the first one's dtype, relative to their norms."""
    tolerance = _ROUNDINGS * torch.finfo(expected[0].dtype).eps
    return len(expected) == len(actual) and all(
        a.shape == e.shape and bool((a.float() - e.float()).norm() <= tolerance * e.float().norm())
        for a, e in zip(actual, expected, strict=True)
    )


def _output_and_gradients(module: nn.Module, forward: Forward, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the output, and the gradients of the inputs and of each trained tensor, in order."""
    inputs = tuple(x.clone().requires_grad_(x.is_floating_point()) for x in inputs)
    varied = [x for x in (*inputs, *module.parameters()) if x.requires_grad]
    y = forward(*inputs)
    weights = torch.cos(torch.arange(y.numel(), device=y.device)).view(y.shape).to(y.dtype)
    gradients = torch.autograd.grad((y * weights).sum(), varied, allow_unused=True)
    return [y.detach(), *(torch.zeros(0) if gradient is None else gradient for gradient in gradients)]


@contextmanager
def _random_matrices(module: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Use random matrices inside the context: a new B is zero, which would hide half of the gradients."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for parameter in trained:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(trained, before, strict=True):
                parameter.copy_(value)
