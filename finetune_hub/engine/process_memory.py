"""Memory of the process: kernel caches and peak usage. For the heap see `allocator`.

oneDNN compiles a kernel for every new shape of a bfloat16 product and caches the last 1024, and torch's wrapper caches
as many again: 0.6 MB per shape, with about eighty new shapes per micro-batch of packed rows. A micro-batch needs its
own kernels until its backward pass is done; kernels of earlier batches are almost never reused.
"""

from __future__ import annotations

import os
import resource
import sys

import torch

_KERNEL_CACHES = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}  # ideep's and oneDNN's.


def bound_kernel_caches() -> None:
    """Limit oneDNN's caches to about one micro-batch's kernels. Call it before the process's first product.

    Values already set in the environment are kept.
    """
    for name, capacity in _KERNEL_CACHES.items():
        os.environ.setdefault(name, capacity)


def peak_memory_bytes(device: str) -> int:
    """Return peak allocated memory on CUDA, or the process's peak resident memory on CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
