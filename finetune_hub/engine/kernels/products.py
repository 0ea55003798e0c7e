"""The numbers that matrix products are made of: those of their factors, or float32 where 16 bits are multiplied slowly.

A processor's instructions do not tell. With AVX2 alone torch falls to loops of its own: for SmolLM2's shapes 7 times as
slow as float32, and 30 to 200 times where the second factor is not transposed, as in a backward. AVX-512's bfloat16 is
twice as fast as float32 on AMD's, and half as fast on Intel's where AMX is hidden. So the products are timed, once a
process. Where float32 wins, our kernels take float32 copies of their factors for the moment of the product: what is
kept stays in 16 bits, and is rounded once where the processor's own product would round it too.
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
_COPIES_PAY = 0.75  # Of the 16-bit product's time.


def _has_fast_loops(dtype: torch.dtype) -> bool:
    """Whether torch hands such products to oneDNN. Its own loops are hopeless, and too slow to be timed."""
    asked = getattr(torch.ops.mkldnn, _QUESTIONS[dtype], None)  # A torch without oneDNN has only its own loops.
    return asked is not None and bool(asked())


@cache
def slow_dtypes() -> frozenset[torch.dtype]:
    """The 16-bit dtypes that this processor multiplies slower than float32 copies of them.

    Every process of a run must find the same: they are timed in turn and by this thread's own time, which other
    processes hardly lengthen, and the best of several rounds counts.
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


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]  # Else torch.compile stops at the clock.
def _is_slow(dtype: torch.dtype) -> bool:
    return dtype in _QUESTIONS and dtype in slow_dtypes()


def product_dtype(tensor: Tensor) -> torch.dtype:
    """What products with this tensor are computed in."""
    return torch.float32 if tensor.device.type == "cpu" and _is_slow(tensor.dtype) else tensor.dtype
