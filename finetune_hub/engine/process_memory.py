"""Memory of the process: what kernels keep of it, and how much was in use at most. `allocator` is about the heap.

oneDNN compiles a kernel for every new shape of a bfloat16 product and keeps the last 1024 of them, and torch's wrapper
keeps as many again: 0.6 MB a shape, and packed rows bring some eighty new shapes a micro batch. A micro batch needs its
own until its backward is through; of those of the batches before nearly none comes again.
"""

from __future__ import annotations

import os
import resource
import sys

import torch

_KERNEL_CACHES = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}  # ideep's and oneDNN's.


def bound_kernel_caches() -> None:
    """Let oneDNN keep the kernels of about one micro batch; to be called before the process's first product.

    What the environment says already stays.
    """
    for name, capacity in _KERNEL_CACHES.items():
        os.environ.setdefault(name, capacity)


def peak_memory_bytes(device: str) -> int:
    """Peak allocated memory on CUDA, peak resident memory of the process on the CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
