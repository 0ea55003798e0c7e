"""What planning knows about a device: its memory, its compute rates and its memory bandwidth.

Rates are the manufacturers' dense ones, without sparsity; `speed` says what share of them a run reaches.
Sources: NVIDIA's data sheet of each card; for 4090 and 3090 the Ada and Ampere GA102 white papers, with the rates for
float32 accumulation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.run import DeviceKind

Dtype = Literal["float32", "bfloat16", "float16"]
GIB = 1 << 30


@dataclass(frozen=True)
class PlannedDevice:
    """What planning knows about one device."""

    kind: DeviceKind
    name: str
    memory_bytes: int
    half_flops: float | None  # Per second in bfloat16 and float16; None: unknown.
    float32_flops: float | None
    bandwidth: float | None  # Bytes per second.
    auto_dtype: Dtype = "float32"
    """What `dtype: auto` resolves to on a CPU, if known; the default, float32, needs the most memory."""

    def flops(self, dtype: Dtype) -> float | None:
        return self.float32_flops if dtype == "float32" else self.half_flops


# Name, GiB, teraflops in half precision and in float32, GB/s. The name is that of NVIDIA's driver, or a part of it.
_GPUS = [
    ("RTX 4090", 24, 165.2, 82.6, 1008),
    ("RTX 3090", 24, 71.2, 35.6, 936),
    ("A100 80GB", 80, 312.0, 19.5, 2039),
    ("A100 40GB", 40, 312.0, 19.5, 1555),
    ("A10", 24, 125.0, 31.2, 600),
    ("L40S", 48, 362.0, 91.6, 864),
    ("L40", 48, 181.0, 90.5, 864),
    ("L4", 24, 121.0, 30.3, 300),
    ("H100 PCIe", 80, 756.0, 51.0, 2000),
    ("H100", 80, 989.0, 67.0, 3350),
    ("H200", 141, 989.0, 67.0, 4800),
]
KNOWN_GPUS = {
    name: PlannedDevice("cuda", name, gib * GIB, half * 1e12, full * 1e12, bandwidth * 1e9)
    for name, gib, half, full, bandwidth in _GPUS
}
_CPU_HALF_FLOPS = 283e9  # Of one core of an AMD EPYC with AVX-512 BF16: see benchmarks/README.md, "Engine".
_CPU_FLOAT32_FLOPS = 95e9
_CPU_BANDWIDTH = 20e9


def device_of(kind: str, name: str, memory_bytes: int) -> PlannedDevice:
    """Return a worker's device by its driver's name; a GPU that is not in the table has no rates."""
    if kind == "cpu":
        cores = re.search(r"(\d+) cores?", name)
        count = int(cores.group(1)) if cores else 1
        rates = (count * _CPU_HALF_FLOPS, count * _CPU_FLOAT32_FLOPS, _CPU_BANDWIDTH)
        return PlannedDevice("cpu", name, memory_bytes, *rates)
    known = _known(name, memory_bytes)
    if known is None:
        return PlannedDevice("cuda", name, memory_bytes, None, None, None)
    return PlannedDevice("cuda", name, memory_bytes, known.half_flops, known.float32_flops, known.bandwidth)


def device_named(text: str) -> PlannedDevice:
    """Return a device by a name that a person typed: `A100 80GB`, `rtx 4090`, `cpu 16GB`.

    Raises:
        Refusal: `unknown_device`.
    """
    gigabytes = re.search(r"(\d+) ?g(?:i?b)?$", text.strip(), re.IGNORECASE)
    if text.strip().lower().startswith("cpu") and gigabytes:
        return device_of("cpu", text, int(gigabytes.group(1)) * GIB)
    known = _known(text, int(gigabytes.group(1)) * GIB if gigabytes else None)
    if known is None:
        raise Refusal(
            "unknown_device",
            f"There is no known device {text!r}.",
            f"Use `cpu 16GB` or one of: {', '.join(KNOWN_GPUS)}.",
            field="device",
        )
    return known


def _known(name: str, memory_bytes: int | None) -> PlannedDevice | None:
    """Return the first entry whose words are all in the name; cards that differ only in memory are told apart by it."""
    said = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    joined = "".join(said)
    for known in KNOWN_GPUS.values():
        *words, last = known.name.lower().split()
        by_memory = last.endswith("gb") and memory_bytes is not None and memory_bytes > 0.9 * known.memory_bytes
        wanted = words if by_memory else [*words, last]
        if all(word in said or (len(wanted) > 1 and word in joined) for word in wanted):
            return known
    return None
