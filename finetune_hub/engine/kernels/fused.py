"""Element-wise work as one pass over memory: small functions that torch.compile fuses, on a GPU alone.

    @fused
    def gated(g, p): …          on CUDA one Triton kernel for every dtype and rank, whatever the sizes; elsewhere itself

Only what is called inside an autograd node of ours is fused, so nothing is differentiated here, and a function computes
with local tensors alone. Triton wants a C compiler on the machine; without it, or with torch's own switch
`TORCHDYNAMO_DISABLE=1`, the functions run as they stand: the same numbers up to a rounding, in more passes.
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
    """The function, compiled for tensors on a GPU. Its first argument is a tensor and tells the device."""

    @cache
    def compiled() -> Callable[Arguments, Result]:  # At the first use: the compiler is slow to import.
        # Not `fullgraph`: a function met in more kinds of tensors than dynamo's limit shall then run as it stands.
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
    """What keeps functions from being fused on this device; None: nothing does."""
    if device.type not in _FUSING_DEVICES:
        return "it is on the CPU"
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return "TORCHDYNAMO_DISABLE is set"
    x = torch.linspace(-1, 1, 12, device=device).view(3, 4)
    try:
        with torch.no_grad():
            probed = torch.compile(_probe, fullgraph=True, dynamic=True)(x, 1e-3)
        is_right = torch.allclose(probed, _probe(x, 1e-3))
    except RuntimeError as missing:  # Dynamo's and Inductor's errors are; a missing compiler is told in one of them.
        return f"torch.compile fails here: {str(missing).strip().splitlines()[0][:200]}"
    return None if is_right else "torch.compile computes wrongly here"


def _probe(x: Tensor, epsilon: float) -> Tensor:
    """A little of all that the fused functions are made of."""
    picked = x.gather(1, x.argmax(1, keepdim=True))
    return (x.square().mean(1, keepdim=True).add_(epsilon).rsqrt_() * x).exp() - picked
