"""Compile what `torch.compile` makes of our fused functions for a GPU that is not there.

    python -m tests.cuda.compile_kernels 90        one JSON line a kernel

The functions get fake tensors of a GPU, so dynamo and Inductor do what they do there; the properties of the device are
made up. Triton then compiles for its architecture, down to the machine code (`cubin`), as the processes that compile
for Inductor ahead of time do. Before the first launch it ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch._dynamo.device_interface import CudaInterface
from torch._inductor import config
from torch._inductor.output_code import CompiledFxGraph
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget

from finetune_hub.engine.kernels import fused
from tests.engine.test_fused import calls

# Llama-3.2-1B's, which decide how Inductor divides the work.
SHAPES = {"width": 2048, "vocabulary": 128_256, "heads": 32, "head_dim": 64}
TOKENS = 1024
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
PROCESSORS = {80: 108, 90: 132, 100: 148}  # Of an A100, an H100 and a B200.


class Compiled(Exception):
    """The graph is compiled; its first launch would follow."""


def main() -> None:
    capability = int(sys.argv[1])
    kernels: list[CachingAutotuner] = []
    with _a_gpu_of(capability), _kept_in(kernels):
        for dtype in DTYPES:
            for name, (function, arguments) in _calls(dtype).items():
                torch._dynamo.reset()
                kernels.clear()
                _compile(function, arguments)
                assert kernels, f"{name} made no kernel"
                for kernel in kernels:
                    print(
                        json.dumps({"function": name, "dtype": str(dtype)[6:], **_facts(kernel, capability)}),
                        flush=True,
                    )


def _calls(dtype: torch.dtype) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    with _FAKES:
        found = calls(TOKENS, dtype, "cuda", **SHAPES)
        found["the probe"] = fused._probe, (torch.empty(3, 4, dtype=dtype, device="cuda"), 1e-3)
    return found


def _compile(function: Any, arguments: tuple[Any, ...]) -> None:
    """As `fused` does, and in one graph."""
    compiled = torch.compile(getattr(function, "__wrapped__", function), dynamic=True, fullgraph=True)
    try:
        with torch.no_grad(), _FAKES:
            compiled(*arguments)
    except Compiled:
        return
    raise AssertionError("the compiled graph was not called")


def _facts(kernel: CachingAutotuner, capability: int) -> dict[str, Any]:
    """What came out for each way of launching that Triton would try."""
    binaries = [result.kernel for result in kernel.compile_results]
    for binary in binaries:
        assert f".target sm_{capability}" in binary.asm["ptx"]
        assert binary.asm["cubin"].startswith(b"\x7fELF")
    return {
        "kernel": kernel.inductor_meta["kernel_name"],
        "variants": len(binaries),
        "cubin_bytes": max(len(binary.asm["cubin"]) for binary in binaries),
        "shared_bytes": max(binary.metadata.shared for binary in binaries),
    }


_FAKES = FakeTensorMode()


class _Driver:
    """Triton's, of the GPU that is not there."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return 0


@contextmanager
def _a_gpu_of(capability: int) -> Iterator[None]:
    """Inductor and Triton find one GPU; torch itself goes on finding none."""
    properties = SimpleNamespace(
        name="made up",
        major=capability // 10,
        minor=capability % 10,
        multi_processor_count=PROCESSORS[capability],
        regs_per_multiprocessor=65_536,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        warp_size=32,
        total_memory=80 << 30,
        L2_cache_size=50 << 20,
    )
    asked = {
        CudaInterface: {
            "is_available": True,
            "is_bf16_supported": True,
            "device_count": 1,
            "current_device": 0,
            "get_device_properties": properties,
            "get_compute_capability": capability,
        },
        CudaInterface.Worker: {"current_device": 0, "get_device_properties": properties},
        torch.cuda: {
            "current_device": 0,
            "get_device_properties": properties,
            "get_device_capability": (properties.major, properties.minor),
        },
    }
    triton.runtime.driver.set_active(_Driver(capability))
    with ExitStack() as stack:
        for owner, answers in asked.items():
            for question, answer in answers.items():
                stack.enter_context(mock.patch.object(owner, question, staticmethod(lambda *_, a=answer, **__: a)))
        stack.enter_context(mock.patch.object(triton_helpers, "set_driver_to_gpu"))
        stack.enter_context(
            config.patch(compile_threads=1, force_disable_caches=True, use_static_triton_launcher=False)
        )
        yield


@contextmanager
def _kept_in(kernels: list[CachingAutotuner]) -> Iterator[None]:
    """Compiled kernels are kept instead of loaded, and compiled graphs end before they run."""

    def stop(*_: Any) -> None:
        raise Compiled

    with (
        mock.patch.object(CachingAutotuner, "_make_launchers", lambda kernel: kernels.append(kernel)),
        mock.patch.object(CachingAutotuner, "_dynamic_scale_rblock"),
        mock.patch.object(CompiledFxGraph, "__call__", stop),
    ):
        yield


if __name__ == "__main__":
    main()
