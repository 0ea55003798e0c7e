"""The dtype of matrix products: that of their factors, or float32 if 16-bit products are slow.

A processor's instruction set is not enough to decide. With only AVX2, torch uses its own loops: for SmolLM2's shapes
7 times slower than float32, and 30 to 200 times if the second factor is not transposed, as in a backward. AVX-512's
bfloat16 is twice as fast as float32 on AMD, and half as fast on Intel where AMX is hidden. So the products are timed,
once per process. If float32 wins, our kernels use temporary float32 copies of the factors: stored tensors remain in
16 bits and are rounded once, where the processor's own product would round too.
"""

from __future__ import annotations

import math
import time
from functools import cache

import torch
from torch import Tensor

_QUESTIONS = {torch.bfloat16: "_is_mkldnn_bf16_supported", torch.float16: "_is_mkldnn_fp16_supported"}
_TIMED_SHAPE = (256, 512, 512)  # (T, I, O): a millisecond in float32.
_TIMED_ROUNDS = 10
_COPIES_PAY = 0.75  # Float32 must take less than this share of the 16-bit product's time.


def _has_fast_loops(dtype: torch.dtype) -> bool:
    """Return whether torch uses oneDNN for such products. Its own loops are too slow even to time."""
    asked = getattr(torch.ops.mkldnn, _QUESTIONS[dtype], None)  # Without oneDNN, torch has only its own loops.
    return asked is not None and bool(asked())


@cache
def slow_dtypes() -> frozenset[torch.dtype]:
    """Return the 16-bit dtypes that this processor multiplies more slowly than float32 copies of them.

    Every process of a run must get the same result: dtypes are timed alternately in this thread's CPU time, which other
    processes hardly affect, and the best of several rounds is used.
    """
    timed = [torch.float32, *filter(_has_fast_loops, _QUESTIONS)]
    seconds = dict.fromkeys(timed, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(_TIMED_ROUNDS):
        for dtype in timed:
            seconds[dtype] = min(seconds[dtype], _time_product(dtype))
    torch.set_num_threads(threads)
    exact = seconds[torch.float32]
    return frozenset(dtype for dtype in _QUESTIONS if exact < _COPIES_PAY * seconds.get(dtype, math.inf))


def _time_product(dtype: torch.dtype) -> float:
    tokens, into, out = _TIMED_SHAPE
    x, weight = torch.ones(tokens, into, dtype=dtype), torch.ones(out, into, dtype=dtype)
    start = time.thread_time()
    torch.mm(x, weight.t())
    return time.thread_time() - start


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # Or torch.compile breaks at the clock.
def _is_slow(dtype: torch.dtype) -> bool:
    return dtype in _QUESTIONS and dtype in slow_dtypes()


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype for products with this tensor."""
    return torch.float32 if tensor.device.type == "cpu" and _is_slow(tensor.dtype) else tensor.dtype
