"""What the process holds: no kernels of shapes that are gone, no file that was read to be packed, few holes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune_hub.engine.allocator import TUNABLES, VARIABLE
from finetune_hub.engine.model import load_base_model
from finetune_hub.engine.quantization import Quantization, QuantizationKind
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads glibc's counters, and /proc")

MALLINFO = """
import ctypes, torch

class Mallinfo2(ctypes.Structure):  # glibc's malloc.h
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split())]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Mallinfo2
"""

KERNELS = """
from finetune_hub.engine.process_memory import bound_kernel_caches
bound_kernel_caches()
weight = torch.ones(64, 64, dtype=torch.bfloat16)
for tokens in range(100, 600):
    torch.ones(tokens, 64, dtype=torch.bfloat16) @ weight
    if tokens == 300:
        before = library.mallinfo2().uordblks
print(library.mallinfo2().uordblks - before)
"""

# Each round frees every other tensor and takes as many of the same size again, with small things in between.
HOLES = """
tensors, small = [torch.empty(1 << 18) for _ in range(64)], []
for _ in range(20):
    for index in range(0, 64, 2):
        tensors[index] = None
        small.append(torch.empty(1))
    for index in range(0, 64, 2):
        tensors[index] = torch.empty(1 << 18)
print(library.mallinfo2().arena)
"""

# What lies last in the heap stays, so nothing before it goes by itself.
GIVEN_BACK = """
from pathlib import Path
from finetune_hub.engine.allocator import release_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

tensors, last = [torch.ones(1 << 18) for _ in range(64)], torch.ones(1 << 18)
tensors.clear()
before = resident()
release_freed_memory()
print(before - resident())
"""


def number_from(code: str, **environment: str) -> int:
    command = [sys.executable, "-c", MALLINFO + code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    return int(done.stdout)


def test_kernels_of_shapes_that_never_come_again_are_dropped() -> None:
    # 300 shapes; without a bound they take 180 MB where oneDNN compiles kernels.
    assert number_from(KERNELS) < 16 << 20


def test_freed_tensors_make_room_for_as_many_of_their_size() -> None:
    # They take 64 MiB together, and with the small things between them 185; without the settings, on glibc 2.36, 611.
    assert number_from(HOLES, **{VARIABLE: TUNABLES}) < 256 << 20


def test_freed_memory_is_given_back_from_the_middle_of_the_heap() -> None:
    assert number_from(GIVEN_BACK, **{VARIABLE: TUNABLES}) > 48 << 20  # Of 64 MiB.


def test_the_engine_starts_itself_with_the_allocators_settings(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import os; print(os.environ.get({VARIABLE!r}))")
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    command = [sys.executable, "-m", "finetune_hub.engine", "--help"]

    def first_words(**more: str) -> list[str]:
        env = environment | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])} | more
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
        return done.stdout.splitlines()[:2]

    assert first_words() == ["None", TUNABLES]
    chosen, then = first_words(**{VARIABLE: "glibc.malloc.check=0"})  # What somebody has set stays.
    assert chosen == "glibc.malloc.check=0"
    assert then.startswith("usage:")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_packed_base_model_lets_its_file_go(tmp_path: Path, kind: QuantizationKind) -> None:
    own = make_tiny_model(tmp_path / "own")  # Another test of this process may still hold the shared one's file.
    model = load_base_model(own, dtype=torch.float32, device="cpu", quantization=Quantization(kind))
    held = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(own) in line]
    assert not model.training  # It lives, and
    assert not held
