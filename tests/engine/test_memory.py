"""A long run over ragged rows does not grow by the kernels that it compiles."""

from __future__ import annotations

import subprocess
import sys

import pytest

GROWTH = """
import ctypes, torch
from finetune_hub.engine.memory import bound_kernel_caches

class Mallinfo2(ctypes.Structure):  # glibc's malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split())]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Mallinfo2
bound_kernel_caches()
weight = torch.ones(64, 64, dtype=torch.bfloat16)
for tokens in range(100, 600):
    torch.ones(tokens, 64, dtype=torch.bfloat16) @ weight
    if tokens == 300:
        before = library.mallinfo2().uordblks
print(library.mallinfo2().uordblks - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads glibc's counters")
def test_kernels_of_shapes_that_never_come_again_are_dropped() -> None:
    run = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 16 << 20  # 300 shapes; without a bound they take 180 MB where oneDNN compiles kernels.
