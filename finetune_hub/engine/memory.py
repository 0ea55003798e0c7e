"""Memory of the process on a CPU: what a step frees, what kernels keep, and how much was in use at most.

A training step frees and takes again the same few hundred tensors. By default glibc gives the large ones back to the
kernel, which clears their pages anew at every use: some 40,000 page faults a step on a model of 135M parameters. Above
the threshold set here it still does, so that one huge tensor is not kept for ever.

oneDNN compiles a kernel for every new shape of a bfloat16 product and keeps the last 1024 of them, and torch's wrapper
keeps as many again: 0.6 MB a shape, and packed rows bring some eighty new shapes a micro batch. A micro batch needs its
own until its backward is through; of those of the batches before nearly none comes again.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BYTES = 32 << 20  # glibc refuses a larger mmap threshold.
_UNTRIMMED_BYTES = 512 << 20
_KERNEL_CACHES = {"LRU_CACHE_CAPACITY": "128", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}  # ideep's and oneDNN's.


def keep_freed_memory() -> None:
    """Let glibc reuse freed tensors of up to 32 MiB instead of unmapping them; without glibc nothing happens."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _UNTRIMMED_BYTES)


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
