"""Element-wise work in one pass over memory: small functions that torch.compile fuses, only on a GPU.

    @fused
    def gated(g, p): …          on CUDA one Triton kernel per dtype and rank, for all sizes; elsewhere unchanged

Only code inside our autograd nodes is fused, so nothing is differentiated here, and a function uses only local tensors.
Triton needs a C compiler on the machine; without it, or with torch's own switch `TORCHDYNAMO_DISABLE=1`, the functions
run uncompiled: the same numbers up to rounding, in more passes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_FUSING_DEVICES = {"cuda"}


def fused(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Compile the function for tensors on a GPU. Its first argument is a tensor, which determines the device."""

    @cache
    def compiled() -> Callable[Arguments, Result]:  # On first use, as the compiler is slow to import.
        # Not `fullgraph`: beyond dynamo's limit on kinds of tensors, a function should run uncompiled.
        return torch.compile(function, dynamic=True)

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        first = args[0]
        assert isinstance(first, Tensor)
        chosen = function if why_not(first.device) else compiled()
        return chosen(*args, **kwargs)

    return run


@cache
def why_not(device: torch.device) -> str | None:
    """Return why functions cannot be fused on this device; None if they can."""
    if device.type not in _FUSING_DEVICES:
        return "it is on the CPU"
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return "TORCHDYNAMO_DISABLE is set"
    x = torch.linspace(-1, 1, 12, device=device).view(3, 4)
    try:
        with torch.no_grad():
            probed = torch.compile(_probe, fullgraph=True, dynamic=True)(x, 1e-3)
        is_right = torch.allclose(probed, _probe(x, 1e-3))
    except RuntimeError as missing:  # Includes Dynamo's and Inductor's errors, also for a missing compiler.
        return f"torch.compile fails here: {str(missing).strip().splitlines()[0][:200]}"
    return None if is_right else "torch.compile gives wrong results here"


def _probe(x: Tensor, epsilon: float) -> Tensor:
    """Use a bit of everything that the fused functions consist of."""
    picked = x.gather(1, x.argmax(1, keepdim=True))
    return (x.square().mean(1, keepdim=True).add_(epsilon).rsqrt_() * x).exp() - picked
